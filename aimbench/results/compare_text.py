"""A comparison as lines of text; values in percent."""

from aimbench.metrics.statistics import McNemar
from aimbench.results.compare import Comparison, GroupComparison, MetricComparison

_SIGNIFICANT = 0.05


def comparison_lines(comparison: Comparison, *, max_groups: int = 10, max_samples: int = 10) -> list[str]:
    """Returns what ``aimbench results compare`` prints."""
    c = comparison
    dataset = c.first[0].dataset
    lines = [
        *(f"{name:8}{', '.join(r.id for r in side)}" for name, side in (("first", c.first), ("second", c.second))),
        f"of      {dataset.name}@{dataset.variant} ({dataset.kind}), {c.split}, {c.metrics[0].n} samples",
    ]
    if c.differing:
        lines.append(f"differ  in {', '.join(c.differing)}")
    if len(c.epg_regions) > 1:
        lines.append(f"EPG     not compared: one side counts the {' and one the '.join(c.epg_regions)} as the object")
    drawn = "samples and seeds" if len(c.first) > 1 or len(c.second) > 1 else "samples; seeds not, one run a side"
    lines += ["", f"{'percent':26}{'first':>7}{'second':>8}{'difference':>12}  [95 % interval over {drawn}]"]
    lines += [_metric_line(metric) for metric in c.metrics]
    if c.test is not None:
        lines += ["", f"first alone right on {_test_text(c.test)}"]
    if c.groups:
        lines += ["", f"{'accuracy by group':40}{'n':>6}{'first':>7}{'second':>8}{'difference':>12}  {_p_title(c)}"]
        lines += [_group_line(group) for group in c.groups[:max_groups]]
        if len(c.groups) > max_groups:
            lines.append(f"  and {len(c.groups) - max_groups} groups that differ less; see --max-groups")
    if len(c.samples) and max_samples:
        lines += ["", f"samples that differ ({len(c.samples)}), share of runs that were right"]
        lines += [
            f"  {key:40}  first {row.first:.2f}  second {row.second:.2f}  {row.group}"
            for key, row in c.samples.head(max_samples).iterrows()
        ]
        if len(c.samples) > max_samples:
            lines.append(f"  and {len(c.samples) - max_samples} more; --csv FILE writes all")
    return lines


def _metric_line(metric: MetricComparison) -> str:
    d = metric.difference
    verdict = "inside the noise" if d.inside_noise else "beyond the noise"
    seeds = "" if metric.seeds_p_value is None else f", between seeds p {metric.seeds_p_value:.3g} (Welch)"
    interval = f"[{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
    return (
        f"{metric.name:26}{100 * metric.first:7.1f}{100 * metric.second:8.1f}{100 * d.value:+12.1f}  {interval:15} "
        f"{verdict}{seeds}"
    )


def _group_line(group: GroupComparison) -> str:
    p = "-" if group.p_value is None else f"{group.p_value:.3g}" + " *" * (group.p_value < _SIGNIFICANT)
    return (
        f"{group.name[:39]:40}{group.n:6}{100 * group.first:7.1f}{100 * group.second:8.1f}"
        f"{100 * (group.first - group.second):+12.1f}  {p}"
    )


def _p_title(comparison: Comparison) -> str:
    return "p (McNemar, Holm)" if comparison.test is not None else "p (over samples and seeds, Holm)"


def _test_text(test: McNemar) -> str:
    return f"{test.first_only} samples, second on {test.second_only}; exact paired test p {test.p_value:.3g}"
