"""Text for files: grids as Markdown and LaTeX, with everything escaped that could become markup, and rows as CSV."""

import csv
import html
import io
from collections.abc import Container, Mapping, Sequence
from typing import Any

NEEDS_BOOKTABS = "% Needs \\usepackage{booktabs}.\n"
"""First line of a LaTeX file that holds a `latex_table`."""

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "≈": r"$\approx$",
        # A cell that starts with a bracket would be read as the option of the line break before it.
        "[": "{[}",
        "]": "{]}",
    }
)


def markdown_grid(lines: list[list[str]], bold: Container[tuple[int, int]] = ()) -> list[str]:
    """Returns the lines of a table; ``bold`` holds (line, column) of cells to set in bold, line 0 is the header."""
    header, *rows = [
        [
            f"**{_markdown_cell(cell)}**" if (line, column) in bold else _markdown_cell(cell)
            for column, cell in enumerate(cells)
        ]
        for line, cells in enumerate(lines)
    ]
    return [_markdown_line(line) for line in [header, ["---"] * len(header), *rows]]


def latex_table(
    lines: list[list[str]],
    caption: str,
    notes: Sequence[str] = (),
    *,
    comments: Sequence[str] = (),
    bold: Container[tuple[int, int]] = (),
    label: str = "",
) -> str:
    r"""Returns a booktabs table with ``notes`` in small print beneath.

    ``comments`` stand before it; ``bold`` is as in `markdown_grid`; ``label`` is what ``\ref{tab:...}`` names.
    """
    header, *rows = [
        " & ".join(
            rf"\textbf{{{cell.translate(_LATEX)}}}" if (line, column) in bold else cell.translate(_LATEX)
            for column, cell in enumerate(cells)
        )
        + r" \\"
        for line, cells in enumerate(lines)
    ]
    return "\n".join(
        [
            *(f"% {' '.join(comment.split())}" for comment in comments),
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption.translate(_LATEX)}}}",
            *([rf"\label{{tab:{label}}}"] if label else []),
            rf"\begin{{tabular}}{{{'l' * len(lines[0])}}}",
            r"\toprule",
            header,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {note.translate(_LATEX)}}}" for note in notes),
            r"\end{table}",
        ]
    )


def bullets(lines: Sequence[str]) -> list[str]:
    """Returns a list in Markdown, one item a line."""
    return [f"- {_markdown_text(line)}" for line in lines]


def heading(text: str) -> str:
    """Returns a line in bold, as it stands above a table in Markdown."""
    return f"**{_markdown_text(text)}**"


def _markdown_text(text: str) -> str:
    # Names may come from others: no tag and no further line may become part of the page.
    return html.escape(" ".join(text.splitlines()), quote=False)


def _markdown_cell(text: str) -> str:
    return _markdown_text(text).replace("|", "\\|")


def _markdown_line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows as CSV under one header that holds every row's columns; what a row lacks is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
