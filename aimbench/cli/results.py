"""``aimbench results``: tables of the stored records, single records, and their validation."""

import shlex
import sys
from collections.abc import Callable, Container, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aimbench.cli.options import Cards, RegistryRoot, Settings, parse_names, parse_settings
from aimbench.errors import RecordError
from aimbench.paths import cards_root, results_root

if TYPE_CHECKING:
    from rich.console import Console

    from aimbench.results.digest import Digest
    from aimbench.results.reference import Reference
    from aimbench.results.store import Store
    from aimbench.results.tables import Row, Table

app = typer.Typer(help="Tables, single records and validation of the results registry.", no_args_is_help=True)


class TableFormat(StrEnum):
    """Formats of ``results table``."""

    md = "md"
    csv = "csv"
    json = "json"
    latex = "latex"


class RecordKind(StrEnum):
    """Kinds of dataset that never share a table."""

    official = "official"
    partial = "partial"
    uncounted = "uncounted"
    mini = "mini"


DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="Only this dataset, NAME or NAME@VARIANT.", metavar="NAME")
]
MethodsOption = Annotated[
    list[str] | None, typer.Option("--method", help="Only these methods (repeat it).", metavar="NAME")
]
DefaultsOption = Annotated[bool, typer.Option("--defaults", help="Only runs at their method's default settings.")]
KindOption = Annotated[RecordKind | None, typer.Option(help="Only this kind of dataset.")]
BackboneOption = Annotated[str | None, typer.Option(help="Only this backbone.", metavar="NAME")]
SelectorOption = Annotated[str | None, typer.Option(help="Only this epoch selector.", metavar="NAME")]
FormatOption = Annotated[TableFormat, typer.Option(help="md and latex are in percent.")]
OutOption = Annotated[Path | None, typer.Option(help="Write to this file, not to the terminal.", metavar="FILE")]


@app.command()
def table(
    dataset: DatasetOption = None,
    method: MethodsOption = None,
    variant: Annotated[str | None, typer.Option(help="Only this variant of the dataset.", metavar="NAME")] = None,
    backbone: BackboneOption = None,
    kind: KindOption = None,
    selector: SelectorOption = None,
    regime: Annotated[
        str | None, typer.Option(help="Only methods that train on these labels: class, groups, ...", metavar="NAME")
    ] = None,
    defaults: DefaultsOption = False,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Only these, comma-separated: accuracy, worst_group_accuracy, epg_gradcam, ..., cost.",
            metavar="KEYS",
            show_default="all",
        ),
    ] = None,
    id: Annotated[str | None, typer.Option(help="Only the table of this id.", metavar="TABLE")] = None,
    format: Annotated[
        TableFormat | None,
        typer.Option(
            help="md and latex are in percent, csv and json in full fractions; "
            "without it a drawn table in a terminal, else md."
        ),
    ] = None,
    reference: Annotated[bool, typer.Option("--reference", help="Published numbers beneath, unranked.")] = False,
    results: RegistryRoot = None,
    out: OutOption = None,
) -> None:
    """Show results: mean and spread over seeds, one table for each set of comparable runs."""
    from aimbench.results.index import find_digests
    from aimbench.results.reference import load_references, references_for
    from aimbench.results.render import render_all
    from aimbench.results.store import Store
    from aimbench.results.tables import make_tables, rows_of, with_columns

    root = results_root(results)
    name, variant = split_variant(dataset, variant)
    wanted = {"variant": variant, "kind": kind, "backbone": backbone, "selector": selector}
    runs = find_digests(Store(root), name, wanted)
    # A table is made of all its runs: its marks say what is best among all of them, whatever rows are shown.
    tables = [table for table in make_tables(runs) if id is None or table.id.startswith(id)]
    methods = method or []
    if methods or regime is not None or defaults:
        keep = _row_filter(methods, regime, runs if defaults else None)
        words = [*(f"--method {one}" for one in methods), *([f"--regime {regime}"] if regime else [])]
        words += ["--defaults"] if defaults else []
        tables = [
            part for table in tables if (part := rows_of(table, keep, runs, " ".join(words), at_defaults=defaults))
        ]
    lacking = set(methods) - {row.method for table in tables for row in table.rows}
    if not tables or lacking:
        asked = {
            "--dataset": _joined(name, variant),
            "--id": id,
            "--method": ",".join(sorted(lacking) or methods) or None,
            "--regime": regime,
            "--defaults": "" if defaults else None,
            **_as_options(wanted),
        }
        _say_nothing_matches(root, asked)
        return
    if columns is not None:
        tables = with_columns(tables, parse_names(columns))
    references = references_for(tables, load_references(root / "reference")) if reference else []
    if format is None and out is None and sys.stdout.isatty():
        _draw(tables, references)
        return
    show_or_write(render_all(tables, format.value if format else "md", references), out)


@app.command()
def evidence(
    dataset: DatasetOption = None,
    method: MethodsOption = None,
    defaults: DefaultsOption = False,
    kind: KindOption = None,
    backbone: BackboneOption = None,
    selector: SelectorOption = None,
    format: FormatOption = TableFormat.md,
    results: RegistryRoot = None,
    out: OutOption = None,
) -> None:
    """Show each method's difference to ERM and to open masks over paired seeds, and its share of the oracle's gain."""
    from aimbench.cli.defaults import at_defaults
    from aimbench.results.evidence import make_evidence
    from aimbench.results.index import find_digests
    from aimbench.results.render_evidence import render_evidence
    from aimbench.results.store import Store
    from aimbench.results.tables import make_tables

    root = results_root(results)
    name, variant = split_variant(dataset, None)
    wanted = {"variant": variant, "kind": kind, "backbone": backbone, "selector": selector}
    runs = find_digests(Store(root), name, wanted)
    if defaults:
        runs = at_defaults(runs)
    found = []
    for table in make_tables(runs):
        # The methods that are not asked for are still what the others are compared with.
        rows = [one for one in make_evidence(table, runs) if not method or one.row.method in method]
        if rows:
            found.append((table, rows))
    if not found:
        asked = {"--dataset": dataset, "--method": ",".join(method or []) or None, **_as_options(wanted)}
        _say_nothing_matches(root, asked, "make a table that holds 'erm'; run it first")
        return
    show_or_write(render_evidence(found, format.value), out)


@app.command()
def overview(
    metric: Annotated[
        str, typer.Option(help="A column's key, such as accuracy or epg_gradcam; headline: WGA, else accuracy.")
    ] = "headline",
    dataset: DatasetOption = None,
    method: MethodsOption = None,
    kind: KindOption = None,
    backbone: BackboneOption = None,
    selector: SelectorOption = None,
    train: Annotated[
        Literal["head", "last", "all"] | None,
        typer.Option(help="Of runs with this --train, in place of the default one (head)."),
    ] = None,
    format: FormatOption = TableFormat.md,
    results: RegistryRoot = None,
    out: OutOption = None,
) -> None:
    """Show one metric, methods down and datasets across, of the runs with the methods' default settings."""
    from aimbench.cli.defaults import at_defaults
    from aimbench.results.index import find_digests
    from aimbench.results.overview import render_overview
    from aimbench.results.store import Store
    from aimbench.results.tables import make_tables

    root = results_root(results)
    name, variant = split_variant(dataset, None)
    wanted = {"variant": variant, "kind": kind, "backbone": backbone, "selector": selector}
    found = [run for run in find_digests(Store(root), name, wanted) if not method or run.method in method]
    runs = at_defaults(found, train)
    if not runs:
        asked = {"--dataset": dataset, "--method": ",".join(method or []) or None, **_as_options(wanted)}
        asked["--train"] = train
        if found:
            others = "are of a method's default settings; 'aimbench results table' shows those with others"
            _say_nothing_matches(root, asked, others)
        else:
            _say_nothing_matches(root, asked)
        return
    notes = [f"Default settings but for --train {train}."] if train else []
    show_or_write(render_overview(make_tables(runs), metric, format.value, notes), out)


@app.command()
def ablation(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="Name of the method.")],
    changes: Settings = None,
    dataset: DatasetOption = None,
    kind: KindOption = None,
    backbone: BackboneOption = None,
    selector: SelectorOption = None,
    format: FormatOption = TableFormat.md,
    results: RegistryRoot = None,
    out: OutOption = None,
) -> None:
    """Show what each setting of a method does: runs that differ from its defaults, or from --set, in one of them."""
    from aimbench.cli.defaults import settings_of
    from aimbench.results.ablation import make_ablations, render_ablations
    from aimbench.results.index import find_digests
    from aimbench.results.store import Store
    from aimbench.results.tables import make_tables

    root = results_root(results)
    base = settings_of(method, parse_settings(changes))
    name, variant = split_variant(dataset, None)
    wanted = {"variant": variant, "kind": kind, "backbone": backbone, "selector": selector}
    runs = find_digests(Store(root), name, {**wanted, "method": method})
    found = [
        (table, lines) for table in make_tables(runs) if len(lines := make_ablations(table, runs, method, *base)) > 1
    ]
    if not found:
        asked = {"method": method, "--set": " ".join(changes or []) or None, "--dataset": dataset}
        _say_nothing_matches(
            root,
            {**asked, **_as_options(wanted)},
            "differ from these settings in one; 'run --set' makes one, a plan with lists of settings makes many",
        )
        return
    show_or_write(render_ablations(found, format.value), out)


@app.command()
def build(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; end with status 1 if a table differs from its records.")
    ] = False,
    results: RegistryRoot = None,
) -> None:
    """Make every file of tables/ anew from the records."""
    from aimbench.results.build import build_tables, outdated

    root = results_root(results)
    if not check:
        for path in build_tables(root):
            typer.echo(path)
        return
    if differing := outdated(root):
        for path in differing:
            typer.echo(f"{path} differs from the records; run 'aimbench results build'", err=True)
        raise typer.Exit(1)
    typer.echo(f"{root / 'tables'} agrees with the records")


@app.command()
def show(
    record_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a record, or its unique beginning.")],
    json: Annotated[bool, typer.Option("--json", help="The whole record as stored.")] = False,
    results: RegistryRoot = None,
    cards: Cards = None,
) -> None:
    """Show one record."""
    from aimbench.results.rerun import obstacle, rerun_command
    from aimbench.results.store import Store
    from aimbench.results.summary import summary
    from aimbench.train.registry import method_card

    record = Store(results_root(results)).get(record_id)
    if json:
        typer.echo(record.model_dump_json(by_alias=True, indent=1))
        return
    typer.echo("\n".join(summary(record)))
    card = method_card(record.method.name)
    if command := rerun_command(record, card):
        # Elsewhere, so that the numbers of another machine do not take the place of those that are cited.
        typer.echo(f"again     {command}{_cards_option(record.dataset.name, cards)} --results again")
    elif record.selected:
        typer.echo(f"again     {obstacle(record, card)}")


def _cards_option(dataset: str, cards: Path | None) -> str:
    """What `aimbench run` must be told of where a dataset's card lies."""
    from aimbench.cards import list_cards

    own = cards_root(cards)
    if own is not None and (own / dataset / "card.yaml").is_file():
        return f" --cards {shlex.quote(str(own))}"
    return "" if dataset in list_cards(cards) else " --cards FOLDER_OF_CARDS"


@app.command()
def validate(dataset: DatasetOption = None, results: RegistryRoot = None) -> None:
    """Check every record: schema, id, checksums, and its numbers against its predictions.

    Ends with status 1 if anything is wrong.
    """
    from aimbench.results.store import Store
    from aimbench.results.validate import check_record
    from aimbench.train.progress import Reporter

    store = Store(results_root(results))
    if not store.records.is_dir():
        raise RecordError(f"there is no {store.records}; name the folder of a registry with --results")
    name, variant = split_variant(dataset, None)
    paths = store.paths(name)
    if variant is not None:
        paths = [path for path in paths if not _is_of_another_variant(store, path, variant)]
    if dataset is not None and not paths:
        raise RecordError(f"there is no record of '{dataset}' in {store.records}; leave --dataset out for all")
    broken, reporter = 0, Reporter()
    with reporter.task("records checked", len(paths)) as task:
        for path in paths:
            problems = check_record(store, path)
            broken += bool(problems)
            for problem in problems:
                reporter.line(problem)
            task.advance(1)
    if broken:
        typer.echo(f"{broken} of {len(paths)} records have problems", err=True)
        raise typer.Exit(1)
    typer.echo(f"{len(paths)} records in {store.records}: no problems")


def _is_of_another_variant(store: "Store", path: Path, variant: str) -> bool:
    # A broken record has no variant to go by, so it is checked with any.
    try:
        return store.read(path).dataset.variant != variant
    except RecordError:
        return False


def _joined(name: str | None, variant: str | None) -> str | None:
    return name if variant is None else f"{name or ''}@{variant}"


def _as_options(wanted: Mapping[str, str | None]) -> dict[str, str | None]:
    return {f"--{name}": value for name, value in wanted.items() if name != "variant"}


def _say_nothing_matches(
    root: Path, asked: Mapping[str, str | None], lack: str = "match; 'aimbench run' makes one"
) -> None:
    """Says that no record is left; where filters were given, a registry that holds records ends with an error.

    Raises:
        RecordError: naming the filters and, for a dataset or a method that is not there, the nearest names, else what
            ``lack`` says after its semicolon.
    """
    from aimbench.errors import nearest_names
    from aimbench.results.store import Store

    store = Store(root)
    given = {option: value for option, value in asked.items() if value is not None}
    if not given or not (paths := store.paths()):
        typer.echo(f"no records in {store.records.resolve()} {lack} (--results names another registry)", err=True)
        return
    hints = []
    for option, there in (
        ("--dataset", {path.parent.name for path in paths}),
        ("--method", {path.stem.rpartition("-")[0] for path in paths}),
    ):
        named = given.get(option, "").partition("@")[0].split(",")
        hints += [nearest_names(name, there) for name in named if name and name not in there]
    filters = " ".join(f"{option} {value}" for option, value in given.items())
    what, _, mend = lack.partition("; ")
    raise RecordError("; ".join([f"no records in {store.records} with {filters} {what}", *(hints or [mend])]))


def split_variant(dataset: str | None, variant: str | None) -> tuple[str | None, str | None]:
    """Returns name and variant of ``NAME[@VARIANT]`` and a variant given apart.

    Raises:
        ConfigError: If the two variants differ.
    """
    from aimbench.errors import ConfigError

    if dataset is None or "@" not in dataset:
        return dataset, variant
    name, _, of_name = dataset.partition("@")
    if variant not in (None, of_name):
        raise ConfigError(f"--dataset {dataset} and --variant {variant} contradict each other; give one variant")
    return name, of_name


def show_or_write(text: str, out: Path | None) -> None:
    """Prints a text, or writes it where ``out`` says so."""
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)


def write_text(out: Path, text: str, option: str = "--out") -> None:
    """Writes a file, and its folder if need be; ``option`` is what named it.

    Raises:
        RecordError: If it can't be written.
    """
    write_bytes(out, text.encode(), option)


def write_bytes(out: Path, content: bytes, option: str = "--out") -> None:
    """As `write_text`."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(content)
    except OSError as error:
        raise RecordError(f"file {out} can't be written ({error.strerror}); name another with {option}") from error


def _row_filter(
    methods: list[str], regime: str | None, at_defaults_of: "list[Digest] | None"
) -> "Callable[[Row], bool]":
    from aimbench.cli.defaults import at_defaults

    records = None if at_defaults_of is None else {run.id for run in at_defaults(at_defaults_of)}

    def keep(row: "Row") -> bool:
        return (
            (not methods or row.method in methods)
            and (regime is None or f"train={regime}" in row.regime.split(", "))
            and (records is None or row.records[0] in records)
        )

    return keep


def _draw(tables: "list[Table]", references: "list[Reference]") -> None:
    from rich.console import Console

    from aimbench.results.notes import OF_COST, OF_INTERVAL
    from aimbench.results.render import (
        best_places,
        fits,
        grid,
        narrow_grid,
        reference_grid,
        row_notes,
        run_notes,
        title,
    )

    console = Console()
    for table in tables:
        console.print(title(table), style="bold", markup=False, highlight=False)
        whole = grid(table)
        if fits(whole, console.width):
            _draw_grid(console, whole, best_places(table))
            notes = [*table.notes, *run_notes(table)]
        else:
            narrow, best, left_out = narrow_grid(table, console.width)
            _draw_grid(console, narrow, best)
            notes = [note for note in table.notes if note not in (OF_COST, OF_INTERVAL)]
            if left_out:
                notes.append(f"Left out for want of room (--columns chooses): {', '.join(left_out)}.")
            notes += row_notes(table)
        for note in [*notes, table.id]:
            console.print(note, style="dim", markup=False, highlight=False)
        console.print()
    if references:
        console.print("Published numbers, in percent as printed; not ranked with ours", style="bold")
        _draw_grid(console, reference_grid(references))


def _draw_grid(console: "Console", lines: list[list[str]], bold: Container[tuple[int, int]] = ()) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*lines[0], box=box.SIMPLE_HEAD)
    for number, line in enumerate(lines[1:], 1):
        drawn.add_row(*(Text(cell, "bold" if (number, place) in bold else "") for place, cell in enumerate(line)))
    console.print(drawn)
