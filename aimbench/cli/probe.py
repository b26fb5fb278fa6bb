"""``aimbench probe``: what a trained model does when object or background is changed."""

from typing import Annotated

import typer

from aimbench.cli.options import Cards, DataRoot, ResultsRoot, RunsRoot, parse_names


def probe(
    run: Annotated[str, typer.Argument(help="Record id (or its beginning) of a run whose checkpoint is on disk.")],
    tests: Annotated[
        str,
        typer.Option(help="Comma-separated: greyed, ablations, rfs, centre-bias, faithfulness."),
    ] = "greyed,ablations,rfs,centre-bias,faithfulness",
    samples: Annotated[int | None, typer.Option(help="Test images used, a fixed subset.", show_default="all")] = None,
    data: DataRoot = None,
    runs: RunsRoot = None,
    results: ResultsRoot = None,
    cards: Cards = None,
) -> None:
    """Take object or background away, move it, add noise; write what happens into the run's record."""
    from aimbench import paths
    from aimbench.errors import ConfigError
    from aimbench.metrics.probe_words import probe_figures, probe_words
    from aimbench.results.predictions import predicted_classes
    from aimbench.results.store import Store
    from aimbench.train.run_folder import run_folder

    if samples is not None and samples < 1:
        raise ConfigError(f"--samples {samples}: give at least 1")
    runs_root = paths.runs_root(runs)
    asked = run_folder(run, runs_root).name  # a wrong word is answered before seconds of imports
    store = Store(paths.results_root(results))
    if not store.exists(asked):
        typer.echo(
            f"{store.records} holds no record {asked}: what is found is shown here and not written (--results names"
            " another registry)",
            err=True,
        )

    from aimbench.train.opened import check_tells_of, open_run
    from aimbench.train.probes import check_probes
    from aimbench.train.probes import probe as run_probes

    names = check_probes(parse_names(tests))
    experiment, trainer = open_run(run, data_root=paths.data_root(data), runs_root=runs_root, cards=cards)
    if store.exists(experiment.id):
        record = store.get(experiment.id)
        check_tells_of(record, predicted_classes(store, record), experiment, trainer)
    found = run_probes(
        trainer.fabric, trainer.model, experiment.method, trainer.data, names, samples, experiment.reporter
    )
    for name, value in found.items():
        typer.echo(f"{name:36}{probe_figures(name, value):22} n {value.n}  {probe_words(name)}")
    if store.exists(experiment.id):
        record = store.get(experiment.id)
        store.write(record.model_copy(update={"probes": {**record.probes, **found}}), replace=True)
        typer.echo(f"written into record {experiment.id}", err=True)
