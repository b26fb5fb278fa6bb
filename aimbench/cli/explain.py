"""``aimbench explain``: pictures of where a trained model looks."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aimbench.cli.options import Cards, DataRoot, ResultsRoot, RunsRoot, png_name

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from aimbench.train.experiment import Experiment
    from aimbench.train.loop import Trainer


def explain(
    run: Annotated[
        list[str],
        typer.Argument(help="Record id (or its beginning) of a run whose checkpoint is on disk; several are compared."),
    ],
    image: Annotated[list[Path] | None, typer.Option(help="Photographs to explain; else samples of a split.")] = None,
    split: Annotated[str, typer.Option(help="Split to draw samples from.")] = "test",
    per_group: Annotated[int, typer.Option(min=1, help="Samples of each group.")] = 3,
    max_groups: Annotated[int, typer.Option(min=1, help="Groups shown.")] = 8,
    by_epg: Annotated[
        str | None,
        typer.Option(help="The best and the worst of each group by the record's EPG of this map.", metavar="MAP"),
    ] = None,
    out: Annotated[Path, typer.Option(help="PNG to write.", callback=png_name)] = Path("explain.png"),
    data: DataRoot = None,
    runs: RunsRoot = None,
    results: ResultsRoot = None,
    cards: Cards = None,
) -> None:
    """Draw image, ground truth, the method's own mask, GradCAM and input x gradient side by side.

    Several runs are drawn on the same photographs, each with its mask and GradCAM: one PNG for each group.
    """
    from aimbench import paths
    from aimbench.errors import ConfigError
    from aimbench.train.run_folder import run_folder

    if len(run) > 1 and (image or by_epg):
        raise ConfigError("--image and --by-epg explain one run; leave them out to compare runs on a split")
    for one in run:
        run_folder(one, paths.runs_root(runs))  # a wrong word is answered before seconds of imports

    from aimbench.train.explain import draw_run
    from aimbench.train.side_by_side import draw_runs

    if len(run) > 1:
        for drawn in draw_runs(
            run,
            data_root=paths.data_root(data),
            runs_root=paths.runs_root(runs),
            cards=cards,
            split=split,
            per_group=per_group,
            max_groups=max_groups,
            out=out,
        ):
            typer.echo(drawn)
        return
    epg, check = (None, None) if by_epg is None else _saved_epg(paths.results_root(results), run[0], split, by_epg)
    path = draw_run(
        run[0],
        data_root=paths.data_root(data),
        runs_root=paths.runs_root(runs),
        cards=cards,
        images=image or [],
        split=split,
        per_group=per_group,
        max_groups=max_groups,
        out=out,
        epg=epg,
        check=check,
    )
    typer.echo(path)


def _saved_epg(
    results: Path, run: str, split: str, name: str
) -> "tuple[npt.NDArray[np.float64], Callable[[Experiment, Trainer], None]]":
    """EPG of a split's samples as the record holds it, in the split's order, and a check that a run is the record's."""
    from aimbench.errors import RecordError, nearest_names
    from aimbench.results.predictions import predicted_classes, read_predictions
    from aimbench.results.store import Store
    from aimbench.train.opened import check_tells_of

    store = Store(results)
    record = store.get(run)
    table = read_predictions(store, record, split)
    if f"epg_{name}" not in table:
        known = [column.removeprefix("epg_") for column in map(str, table) if column.startswith("epg_")]
        raise RecordError(f"record {record.id} has no EPG of '{name}' on {split}; {nearest_names(name, known)}")
    check = partial(check_tells_of, record, predicted_classes(store, record))
    return table[f"epg_{name}"].to_numpy(dtype=float), check
