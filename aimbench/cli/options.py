"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from aimbench.errors import ConfigError, RecordError

DataRoot = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of built datasets and cached features. (env: AIMBENCH_DATA)"),
]
RunsRoot = Annotated[Path | None, typer.Option("--runs", help="Folder of checkpoints. (env: AIMBENCH_RUNS)")]
ResultsRoot = Annotated[
    Path | None, typer.Option("--results", help="Folder of the results registry. (env: AIMBENCH_RESULTS)")
]
Cards = Annotated[
    Path | None,
    typer.Option(
        "--cards",
        help="Folder of further dataset cards, NAME/card.yaml; they go before aimbench's. (env: AIMBENCH_CARDS)",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of the method, key=value; repeatable. See 'aimbench list methods NAME'."),
]


def existing_registry(value: Path | None) -> Path | None:
    """Callback of an option that names a registry to read.

    Raises:
        RecordError: it is no folder.
    """
    if value is not None and not value.expanduser().is_dir():
        raise RecordError(
            f"--results {value} is no folder; name one that holds records/, as 'aimbench run' writes them"
        )
    return value


RegistryRoot = Annotated[
    Path | None,
    typer.Option(
        "--results",
        help="Folder of the results registry to read. (env: AIMBENCH_RESULTS)",
        callback=existing_registry,
    ),
]


def png_name(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """Callback of an option that names a PNG to write.

    Raises:
        ConfigError: it ends otherwise, or is a folder.
    """
    if value is not None and (value.suffix.lower() != ".png" or value.is_dir()):
        raise ConfigError(f"{param.opts[0]} {value} is no name of a PNG; end it with .png")
    return value


def parse_settings(pairs: list[str] | None, option: str = "--set") -> dict[str, Any]:
    """Reads the ``key=value`` words of ``option``; values are YAML scalars (numbers, true, false, null, text).

    Raises:
        ConfigError: a word has no ``=``.
    """
    import yaml

    settings = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"{option} {pair}: write key=value, for example --set active_area=0.25")
        try:
            settings[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{option} {pair}: '{value}' is no plain value; quote it") from error
    return settings


def parse_names(words: str) -> tuple[str, ...]:
    """Reads names separated by commas."""
    return tuple(name for word in words.split(",") if (name := word.strip()))
