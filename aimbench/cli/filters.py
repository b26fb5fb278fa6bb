"""Which records a command of ``aimbench results`` looks at: its options, and what it says when none is left."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aimbench.errors import RecordError

if TYPE_CHECKING:
    from aimbench.results.digest import Digest
    from aimbench.results.tables import Row


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


def joined(name: str | None, variant: str | None) -> str | None:
    """The words of ``--dataset``, of a name and a variant given apart."""
    return name if variant is None else f"{name or ''}@{variant}"


def as_options(wanted: Mapping[str, str | None]) -> dict[str, str | None]:
    """Filters by their options' names; the variant's stands in ``--dataset``."""
    return {f"--{name}": value for name, value in wanted.items() if name != "variant"}


def say_nothing_matches(
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


def row_filter(
    methods: list[str], regime: str | None, at_defaults_of: "list[Digest] | None"
) -> "Callable[[Row], bool]":
    """Whether a row is of one of the methods (any if empty), of a regime, and made at its method's defaults."""
    from aimbench.cli.defaults import at_defaults

    records = None if at_defaults_of is None else {run.id for run in at_defaults(at_defaults_of)}

    def keep(row: "Row") -> bool:
        return (
            (not methods or row.method in methods)
            and (regime is None or f"train={regime}" in row.regime.split(", "))
            and (records is None or row.records[0] in records)
        )

    return keep
