"""Several runs on the same photographs: one picture a group, one row a photograph."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from aimbench.errors import ConfigError
from aimbench.train.experiment import Experiment
from aimbench.train.explain import (
    COLUMNS,
    LINE,
    Explained,
    caption,
    choose_positions,
    draw_map,
    draw_truth,
    epg_words,
    explain_samples,
    save,
    say_left_out,
    title_colour,
)
from aimbench.train.opened import open_run

SHOWN = ("mask", "gradcam")
"""Maps of each run; a run without a mask of its own shows GradCAM alone."""


def draw_runs(
    runs: Sequence[str],
    *,
    data_root: Path,
    runs_root: Path,
    cards: Path | None,
    split: str,
    per_group: int,
    max_groups: int,
    out: Path,
) -> list[Path]:
    """Draws own mask and GradCAM of each run on the same photographs of each group.

    Args:
        runs: record ids or their beginnings, in the order of the columns.
        data_root: of shards.
        runs_root: of checkpoints.
        cards: folder of further cards.
        split: to draw samples from; the choice depends on the split alone, not on the runs.
        per_group: photographs of each group.
        max_groups: groups shown.
        out: PNG; the group's name is put behind its stem.

    Raises:
        ConfigError: the runs are of different datasets.
    """
    opened = [open_run(run, data_root=data_root, runs_root=runs_root, cards=cards) for run in runs]
    first = opened[0][0]
    for experiment, _ in opened:
        if experiment.dataset.manifest.fingerprint != first.dataset.manifest.fingerprint:
            raise ConfigError(
                f"runs {first.id} ({_dataset(first)}) and {experiment.id} ({_dataset(experiment)}) are not on the same"
                " build of one dataset; runs side by side need the same photographs"
            )
    group = first.dataset.split(split).group
    labels = _labels([experiment for experiment, _ in opened])
    say_left_out(first, split, max_groups)
    paths = []
    names = _file_names(first.dataset.manifest.groups)
    chosen = np.array(choose_positions(group, per_group, max_groups))
    for value in np.unique(group[chosen]):
        positions = chosen[group[chosen] == value].tolist()
        compared = {
            label: explain_samples(experiment, trainer, split, positions)
            for label, (experiment, trainer) in zip(labels, opened, strict=True)
        }
        name = names[int(value)]
        paths.append(draw_compared(compared, out.with_stem(f"{out.stem}-{name}")))
    return paths


def _file_names(groups: Sequence[str]) -> list[str]:
    """A word for each group that may stand in a file's name; with the group's number where two would have the same."""
    words = [re.sub(r"[^a-z0-9]+", "-", group.lower()).strip("-") for group in groups]
    return [
        word if word and words.count(word) == 1 else f"{word}-{number}".strip("-") for number, word in enumerate(words)
    ]


def draw_compared(compared: Mapping[str, Sequence[Explained]], out: Path) -> Path:
    """Draws the same photographs under several runs, by label, into one PNG."""
    from matplotlib.figure import Figure

    columns = [(label, name) for label, rows in compared.items() for name in SHOWN if name in rows[0].maps]
    photographs = next(iter(compared.values()))
    width = 1 + len(columns)
    figure = Figure(figsize=(2.1 * width, 2.4 * len(photographs)), layout="constrained")
    axes = np.array(figure.subplots(len(photographs), width)).reshape(len(photographs), width)
    for number, line in enumerate(axes):
        draw_truth(line[0], photographs[number])
        line[0].set_title(photographs[number].title, fontsize=7)
        for axis, (label, name) in zip(line[1:], columns, strict=True):
            row = compared[label][number]
            draw_map(axis, row, name)
            words = f"{label}\n{row.predicted[:LINE]}\n{COLUMNS[name]}{epg_words(row, name)}"
            axis.set_title(words, fontsize=7, color=title_colour(row))
    return save(figure, caption([row for rows in compared.values() for row in rows]), out)


def _dataset(experiment: Experiment) -> str:
    return f"{experiment.definition.dataset.name}@{experiment.definition.dataset.variant}"


def _labels(experiments: Sequence[Experiment]) -> list[str]:
    """The method's name, or the run's id where two runs are of one method."""
    names = [experiment.method.name for experiment in experiments]
    return [e.id if names.count(name) > 1 else name for e, name in zip(experiments, names, strict=True)]
