"""``aimbench sweep``: many runs from one plan."""

import signal
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aimbench.cli.options import Cards, DataRoot, ResultsRoot, RunsRoot, parse_settings

if TYPE_CHECKING:
    from aimbench.sweep.estimate import Line


def sweep(
    plan: Annotated[Path, typer.Argument(help="Plan, a YAML file; examples lie in plans/.")],
    executor: Annotated[
        Literal["inline", "local", "slurm"],
        typer.Option(help="One process, several processes on this machine, or a SLURM cluster."),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at once.", show_default="local: one, or one a GPU; slurm: 16"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the jobs and their estimated cost.")] = False,
    skip_failed: Annotated[bool, typer.Option("--skip-failed", help="Choose among the trials that finished.")] = False,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            help="A parameter of the SLURM jobs, key=value; repeatable. timeout_min=240 (the default), cpus_per_task=8,"
            " gpus_per_node=1, slurm_partition=NAME, ..."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    cache_gb: Annotated[
        float, typer.Option(min=0, max=1e6, help="Memory for decoded photographs, GB; local workers share it.")
    ] = 4.0,
    data: DataRoot = None,
    runs: RunsRoot = None,
    results: ResultsRoot = None,
    cards: Cards = None,
) -> None:
    """Run a plan: trials, the best of them by validation, its seeds.

    The same command again runs only what has no record yet; interrupted runs
    go on from their checkpoints. Trials are recorded under RESULTS/trials.
    Exit status 1 says that some runs failed.
    """
    from aimbench import paths
    from aimbench.cards import parse_dataset
    from aimbench.results.store import Store
    from aimbench.sweep.plan import read_plan
    from aimbench.train.registry import check_method

    found = read_plan(plan)
    for method in found.methods:
        check_method(method.method)
    for dataset in found.datasets:
        parse_dataset(dataset, cards)

    from aimbench.sweep.engine import Sweep, make_executor
    from aimbench.sweep.estimate import Estimator, forecast
    from aimbench.sweep.jobs import Planner, Roots

    roots = Roots(paths.data_root(data), paths.runs_root(runs), paths.results_root(results), paths.cards_root(cards))
    planner = Planner(found, roots, {"accelerator": device, "cache_gb": cache_gb})
    if dry_run:
        _show(forecast(planner, Estimator.of(roots)))
        return
    for root in (roots.results, roots.trials):
        Store(root).check_writable()
    logs = roots.runs / "sweeps" / "logs" / found.name
    engine = make_executor(executor, workers, logs, parse_settings(slurm, option="--slurm"))
    if executor != "inline":
        typer.echo(f"what the runs say goes to {logs}")
    # Ended by SIGTERM as by Ctrl-C, so that local workers end with it. SIGINT, which ends them, is ignored by what
    # a script or nohup starts in the background, and by all that such a process starts itself.
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, signal.default_int_handler)
    try:
        outcome = Sweep(planner, engine, typer.echo, skip_failed=skip_failed).run()
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on where each run's last epoch ended", err=True)
        raise
    typer.echo(f"{len(outcome.done)} runs recorded, {len(outcome.failures)} failed")
    for title, failure in outcome.failures.items():
        typer.echo(f"\nFAILED {title}\n{failure}", err=True)
    if outcome.failures:
        raise typer.Exit(1)


def _show(lines: "Iterable[Line]") -> None:
    total, unknown = 0.0, 0
    for line in lines:
        minutes = "?" if line.seconds is None else f"{line.seconds / 60:.1f} min"
        cost = "-" if line.state == "recorded" else minutes
        typer.echo(f"{line.kind:6}{line.state:17}{cost:>11}  {line.title}")
        total += line.seconds or 0.0
        unknown += line.runs if line.seconds is None else 0
    parts = [f"{total / 3600:.1f} hours of one worker, judged by earlier records"] if total or not unknown else []
    parts += [f"{unknown} runs of unknown cost (no earlier record is like them)"] if unknown else []
    typer.echo(f"still to do: {', and '.join(parts)}")
