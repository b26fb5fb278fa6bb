"""``aimbench results``: tables of the stored records, single records, and their validation."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aimbench.cli.drawn_tables import draw_tables
from aimbench.cli.filters import (
    BackboneOption,
    DatasetOption,
    DefaultsOption,
    FormatOption,
    KindOption,
    MethodsOption,
    OutOption,
    SelectorOption,
    TableFormat,
    as_options,
    joined,
    row_filter,
    say_nothing_matches,
    split_variant,
)
from aimbench.cli.options import Cards, RegistryRoot, Settings, parse_names, parse_settings
from aimbench.cli.output import show_or_write
from aimbench.errors import RecordError
from aimbench.paths import cards_root, results_root

if TYPE_CHECKING:
    from aimbench.results.store import Store

app = typer.Typer(help="Tables, single records and validation of the results registry.", no_args_is_help=True)


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
        keep = row_filter(methods, regime, runs if defaults else None)
        words = [*(f"--method {one}" for one in methods), *([f"--regime {regime}"] if regime else [])]
        words += ["--defaults"] if defaults else []
        tables = [
            part for table in tables if (part := rows_of(table, keep, runs, " ".join(words), at_defaults=defaults))
        ]
    lacking = set(methods) - {row.method for table in tables for row in table.rows}
    if not tables or lacking:
        asked = {
            "--dataset": joined(name, variant),
            "--id": id,
            "--method": ",".join(sorted(lacking) or methods) or None,
            "--regime": regime,
            "--defaults": "" if defaults else None,
            **as_options(wanted),
        }
        say_nothing_matches(root, asked)
        return
    if columns is not None:
        tables = with_columns(tables, parse_names(columns))
    references = references_for(tables, load_references(root / "reference")) if reference else []
    if format is None and out is None and sys.stdout.isatty():
        draw_tables(tables, references)
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
        asked = {"--dataset": dataset, "--method": ",".join(method or []) or None, **as_options(wanted)}
        say_nothing_matches(root, asked, "make a table that holds 'erm'; run it first")
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
        asked = {"--dataset": dataset, "--method": ",".join(method or []) or None, **as_options(wanted)}
        asked["--train"] = train
        if found:
            others = "are of a method's default settings; 'aimbench results table' shows those with others"
            say_nothing_matches(root, asked, others)
        else:
            say_nothing_matches(root, asked)
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
        say_nothing_matches(
            root,
            {**asked, **as_options(wanted)},
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
