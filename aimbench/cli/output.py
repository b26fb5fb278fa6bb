"""Text and pictures to the terminal or to a file that an option names."""

from pathlib import Path

import typer

from aimbench.errors import RecordError


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
