"""The command line: words in, calls out. Nothing heavy is imported before a command needs it."""

import errno
import sys
from typing import Annotated, NoReturn

import typer

from aimbench import __version__
from aimbench.cli import compare, data, demo, evaluate, explain, listing, probe, registry, results, run, sweep
from aimbench.errors import AimbenchError

app = typer.Typer(
    name="aimbench",
    help="Does this classifier look at the object, and does it still work when the background lies?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"aimbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version and end.")
    ] = False,
) -> None:
    del version  # said by its callback


app.command("run")(run.run)
app.command("evaluate")(evaluate.evaluate)
app.command("probe")(probe.probe)
app.command("sweep")(sweep.sweep)
app.command("demo")(demo.demo)
app.command("explain")(explain.explain)
app.add_typer(data.app, name="data")
app.add_typer(listing.app, name="list")
results.app.command("compare")(compare.compare)
results.app.command("reselect")(compare.reselect)
for command in (registry.site, registry.cite, registry.export, registry.schema):
    results.app.command()(command)
results.app.command("import")(registry.import_)
app.add_typer(results.app, name="results")


def main() -> None:
    """Runs the command line; an error that a user can act on, ours or of a file, is one line and exit status 2."""
    try:
        app()
    except AimbenchError as error:
        _end(str(error))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" for {error.filename}" if error.filename else ""
            _end(f"no space left on the disk{where}; free some, or name other places with --data, --runs and --results")
        if error.filename is None:
            raise
        _end(f"{error.filename}: {error.strerror}; make it readable and writable, or name another place")
    except KeyboardInterrupt:
        sys.exit(130)


def _end(message: str) -> NoReturn:
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True).print(f"[red]error:[/red] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(2)
