"""``aimbench explain``: pictures of where a trained model looks."""

from pathlib import Path
from typing import Annotated

import typer

from aimbench.cli.options import Cards, DataRoot, RunsRoot


def explain(
    run: Annotated[str, typer.Argument(help="Record id (or its beginning) of a run whose checkpoint is on disk.")],
    image: Annotated[list[Path] | None, typer.Option(help="Photographs to explain; else samples of a split.")] = None,
    split: Annotated[str, typer.Option(help="Split to draw samples from.")] = "test",
    per_group: Annotated[int, typer.Option(help="Samples of each group.")] = 3,
    max_groups: Annotated[int, typer.Option(help="Groups shown.")] = 8,
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("explain.png"),
    data: DataRoot = None,
    runs: RunsRoot = None,
    cards: Cards = None,
) -> None:
    """Draw image, ground truth, the method's own mask, GradCAM and input x gradient side by side."""
    from aimbench import paths
    from aimbench.train.explain import draw_run

    path = draw_run(
        run,
        data_root=paths.data_root(data),
        runs_root=paths.runs_root(runs),
        cards=cards,
        images=image or [],
        split=split,
        per_group=per_group,
        max_groups=max_groups,
        out=out,
    )
    typer.echo(path)
