"""What a reader must know to not misread a table."""

from collections.abc import Iterable, Sequence
from typing import Any

from aimbench.record import Kind
from aimbench.results.describe import differing, flattened, pick
from aimbench.results.digest import Digest

OF_CONFIG = (
    "Config: of a method's rows the one with the most runs says all in which they differ; "
    "the others say what they change against it. A run with `no` setting is from before there was that setting."
)

OF_COST = (
    "Cost: parameters that were trained, multiply-accumulates (1e9) of one image's forward pass, and the median "
    "wall time of a run with its evaluation, on the machine and under the load that it had."
)
OF_INTERVAL = "[low, high] is the 95 % interval of a single run."


def notes(
    runs: Sequence[Digest],
    *,
    several_seeds: bool,
    single_runs: bool,
    marked: bool,
    several_configs: bool,
    left_out: Sequence[str] = (),
) -> tuple[str, ...]:
    """Returns the lines beneath a table.

    Args:
        runs: All runs of the table.
        several_seeds: Whether some row has more than one run.
        single_runs: Whether some row has only one.
        marked: Whether cells carry the marks of `aimbench.results.ranking`.
        several_configs: Whether some method has rows of different configurations.
        left_out: Ids of runs in place of which a newer one of the same settings and seed is shown.
    """
    lines = [_NOTE_OF_KIND[runs[0].kind]]
    if several_seeds:
        lines.append("± is the sample standard deviation over n seeds.")
    if single_runs:
        lines.append(OF_INTERVAL)
    if marked:
        lines.append(
            "Bold is the best of its column among rows of the same regime; ≈ marks what lies inside the noise of it: "
            "the 95 % intervals (test samples and, over seeds, runs) do not tell the two apart."
        )
    if several_configs:
        lines.append(OF_CONFIG)
    if len({str(run.regime) for run in runs}) > 1:
        lines.append(
            "Rows differ in the labels they used (Regime): compare only rows of the same regime, which stand together."
        )
    epg = [run for run in runs if any(key.startswith("epg_") for key in run.scores)]
    if len(looked_at := {run.settings["evaluation"].get("epg_samples") for run in epg}) > 1:
        numbers = ", ".join(
            "all" if number is None else f"{number:,}" for number in sorted(looked_at, key=_last_if_all)
        )
        lines.append(
            f"EPG is of {numbers} test images (evaluation.epg_samples): compare only rows of the same, as the marks do."
        )
    if any(run.regime.get("train") == "masks" for run in runs):
        lines.append(
            "train=masks: ground-truth masks or boxes are read in training; they stand in for the attention maps of "
            "another network where a method's source takes those."
        )
    lines.append(OF_COST)
    if any(run.groups_are_classes for run in runs):
        lines.append("Groups are the classes: WGA is the accuracy of the worst class (for birds, the worst species).")
    if empty := sorted({name for run in runs for name in run.empty_groups}):
        lines.append(f"Groups without test samples, not counted: {', '.join(empty)}.")
    if samples := sorted({run.samples for run in runs} - {0}):
        lines.append(f"Test samples: {', '.join(f'{number:,}' for number in samples)}.")
    if any(run.oracle_selector for run in runs):
        lines.append("The selector read the test set: an upper bound, not a result.")
    if collapsed := [f"{run.id}: {'; '.join(run.mask_warnings)}" for run in runs if run.mask_warnings]:
        lines.append(f"Masks to look at: {'. '.join(collapsed)}.")
    if empty_maps := _without_energy(runs):
        lines.append(f"EPG counts a sample whose attribution has no positive part as 0; most in a run: {empty_maps}.")
    if dirty := sum(bool(run.dirty) for run in runs):
        lines.append(f"{dirty} of {len(runs)} runs came from code with uncommitted changes.")
    if left_out:
        lines.append(f"Not shown, as a newer run of the same settings and seed is: {', '.join(sorted(left_out))}.")
    if len({run.revision for run in runs}) > 1:
        lines.append("The runs came from more than one code revision.")
    lines.append(_shared_training(runs))
    return tuple(line for line in lines if line)


def _last_if_all(number: int | None) -> tuple[bool, int]:
    return number is None, number or 0


def _without_energy(runs: Sequence[Digest]) -> str:
    # The run with most of each method and attribution, from a hundredth of its samples on.
    most: dict[tuple[str, str], float] = {}
    for run in runs:
        for name, share in run.without_energy.items():
            key = (run.method, name)
            most[key] = max(share, most.get(key, 0.0))
    worth = sorted((method, name, share) for (method, name), share in most.items() if share >= 0.01)
    return ", ".join(f"{method} {name} {share:.0%}" for method, name, share in worth)


def differing_settings(runs: Sequence[Digest]) -> set[str]:
    """Returns the dotted keys of settings that are not equal in all of the runs.

    What was only evaluated has none of the training settings in which it could differ from a run that was trained; its
    own say ``external``.
    """
    trained, external = _training(runs)
    found = (
        differing(trained) | differing(external) | differing([{"evaluation": r.settings["evaluation"]} for r in runs])
    )
    return found | {"external"} if trained and external else found


def _training(runs: Iterable[Digest]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Settings of the runs that were trained here, and of those that were only evaluated."""
    trained = [run.training for run in runs if run.is_trained]
    return trained, [run.training for run in runs if run.training and not run.is_trained]


def _shared_training(runs: Sequence[Digest]) -> str:
    # Runs by the thousand share a few settings, whose text the row's key holds.
    trained, external = _training({run.row_key[-1]: run for run in runs}.values())
    settings = trained or external
    if not settings:
        return ""
    shared = pick(settings[0], set(flattened(settings[0])) - differing(settings))
    rows = "all rows that were trained here" if trained and external else "all rows"
    return f"Training of {rows}: {shared}." if shared else ""


_NOTE_OF_KIND: dict[Kind, str] = {
    "official": "",
    "partial": "Partial set: part of the official images, or composites made anew from part of their sources; not "
    "comparable with published numbers.",
    "uncounted": "Uncounted set: its card states neither counts nor a fingerprint, so nothing says that it is whole.",
    "mini": "Synthetic mini set: shows that the code runs, not how good a method is.",
}
