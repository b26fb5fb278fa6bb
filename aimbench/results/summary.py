"""One record in a screenful of text."""

from aimbench.metrics.probe_words import probe_figures, probe_words
from aimbench.record import EpgScore, Interval, Record, SelectorScore
from aimbench.results.digest import CONDITION_PREFIX

# A dataset whose groups are its classes has hundreds.
_MAX_GROUPS_SHOWN = 12


def headline_text(record: Record) -> str:
    """The test split's headline in one line; values in percent."""
    test = record.metrics["test"]
    fallen = "".join(f", drop {words}" for words in drops(record))
    worst = f", worst group {test.worst_group_accuracy.value:.1%}" if test.worst_group_accuracy else ""
    seen = "".join(f", EPG {name} {score.value:.1%}" for name, score in test.epg.items())
    return f"test accuracy {test.accuracy.value:.1%}{worst}{fallen}{seen}"


def drops(record: Record) -> list[str]:
    """Accuracy lost from each further test condition (TravelingBirds' training places, black) to the test split."""
    test = record.metrics.get("test")
    if test is None:
        return []
    return [
        f"from {name.removeprefix(CONDITION_PREFIX).replace('_', ' ')} {condition.accuracy.value:.1%} to test"
        f" {test.accuracy.value:.1%}: {100 * (condition.accuracy.value - test.accuracy.value):.1f} points"
        for name, condition in record.metrics.items()
        if name.startswith(CONDITION_PREFIX)
    ]


def summary(record: Record) -> list[str]:
    """Returns the lines that `aimbench results show` prints; values in percent."""
    d, b, cost = record.dataset, record.backbone, record.cost
    lines = [
        f"record    {record.id}  ({record.created})",
        f"method    {record.method.name}  {_pairs(record.method.config)}",
        f"regime    {_pairs(record.method.regime)}",
        f"dataset   {d.name}@{d.variant}  {d.kind}, fingerprint {d.fingerprint[:12]}",
        f"backbone  {b.name}  weights {b.weights} ({b.weights_hash[:12]})",
        f"training  {_pairs(record.training)}",
        f"selector  {record.selector}  {_pairs(record.selected)}  seed {record.seed}",
    ]
    for split, metrics in record.metrics.items():
        region = "" if metrics.epg_region is None else f"; EPG by {metrics.epg_region}"
        lines.append(f"{split} ({metrics.n} samples), percent [95 % interval]{region}")
        named = {
            "accuracy": metrics.accuracy,
            "accuracy, reweighted": metrics.accuracy_reweighted,
            "accuracy, group mean": metrics.accuracy_group_mean,
            "worst-group accuracy": metrics.worst_group_accuracy,
        }
        lines += [f"  {name:22}{_percent(value)}" for name, value in named.items() if value is not None]
        if metrics.worst_group_accuracy is not None:
            gap = metrics.accuracy.value - metrics.worst_group_accuracy.value
            lines.append(f"  {'gap to worst group':22}{100 * gap:.1f} points")
        if metrics.worst_group is not None:
            lines.append(f"  {'worst group':22}{metrics.worst_group}")
        if 0 < len(metrics.groups) <= _MAX_GROUPS_SHOWN:
            lines += [
                f"    {name:<28}{_percent(group.accuracy)}  {group.correct} of {group.n}"
                for name, group in metrics.groups.items()
            ]
        for name, epg in metrics.epg.items():
            text = f"{_percent(epg)}  {epg.n} samples, {epg.undefined} undefined{_epg_by_outcome(epg)}"
            lines.append(f"  {'EPG ' + _words(name):22}{text}")
            if 0 < len(epg.groups) <= _MAX_GROUPS_SHOWN:
                lines.append("    " + ", ".join(f"{group} {100 * value:.1f}" for group, value in epg.groups.items()))
    lines += [f"drop      {words}" for words in drops(record)]
    lines += [
        f"probe     {name:32}{probe_figures(name, p)}  {p.n} samples  {probe_words(name)}"
        for name, p in record.probes.items()
    ]
    if record.selectors:
        lines.append("what each selector would have reported on test")
        lines += [_selector_line(name, score) for name, score in record.selectors.items()]
    lines.append(f"cost      {cost.parameters / 1e6:.2f} M parameters, {cost.wall_seconds:.0f} s")
    dirty = " with uncommitted changes" if record.code.dirty else ""
    lines.append(f"code      aimbench {record.code.version}, revision {record.code.revision or 'unknown'}{dirty}")
    return lines


def _epg_by_outcome(epg: EpgScore) -> str:
    outcomes = {"right": epg.correct, "wrong": epg.incorrect}
    return "".join(f", {100 * value:.1f} where {name}" for name, value in outcomes.items() if value is not None)


def _selector_line(name: str, score: SelectorScore) -> str:
    numbers = ", ".join(f"{_words(metric)} {100 * value:.1f}" for metric, value in score.test.items())
    read = "  reads the test set: no result" if score.oracle else "  reads groups" if score.uses_groups else ""
    return f"  {name:34}{score.phase} epoch {score.epoch + 1}: {numbers}{read}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _pairs(mapping: dict[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in mapping.items())


def _percent(interval: Interval | EpgScore) -> str:
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
