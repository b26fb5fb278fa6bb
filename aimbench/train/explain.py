"""Pictures of where a trained run looks: photograph, ground truth, own mask, GradCAM, input x gradient."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from aimbench.data.dataset import Item
from aimbench.data.decode import decode
from aimbench.data.transforms import Transform
from aimbench.errors import ConfigError
from aimbench.metrics.epg import energy_pointing_game
from aimbench.train.attributions import attribute
from aimbench.train.experiment import Experiment
from aimbench.train.loop import Trainer
from aimbench.train.opened import open_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = {
    "mask": "own mask",
    "gradcam": "GradCAM",
    "gradcam_plus_plus": "GradCAM++",
    "input_x_gradient": "input x gradient",
    "integrated_gradients": "integrated gradients",
    "smoothgrad": "SmoothGrad",
    "attention_rollout": "attention rollout",
}

OF_NO_CLASS = {"mask", "attention_rollout"}
"""Maps that are the same for every class."""

LINE = 26
"""Characters that fit above a picture."""


@dataclass(frozen=True)
class Explained:
    """One photograph with what a model said of it and where it looked.

    Attributes:
        title: what to write above the photograph.
        predicted: name of the predicted class.
        image: ``(H, W, 3)`` in [0, 1], as the network saw it.
        region: ``(H, W)`` ground truth in {0, 1}, or None.
        maps: attributions by name, ``(H, W)`` in [0, 1], upsampled to the image.
        epg: EPG of each map, where there is ground truth; NaN of a map without a positive part.
        correct: whether the prediction was right; None where the true class is not known.
    """

    title: str
    predicted: str
    image: npt.NDArray[np.float32]
    region: npt.NDArray[np.float32] | None
    maps: dict[str, npt.NDArray[np.float32]]
    epg: dict[str, float]
    correct: bool | None


def explain_samples(experiment: Experiment, trainer: Trainer, split: str, positions: Sequence[int]) -> list[Explained]:
    """Explains samples of a split: the logit of each one's true class."""
    index = experiment.dataset.split(split)
    items = [index.read(i) for i in positions]
    labels = torch.tensor([int(index.label[i]) for i in positions])
    groups = [experiment.dataset.manifest.groups[int(index.group[i])] for i in positions]
    return _explain(experiment, trainer, items, labels, groups)


def explain_files(experiment: Experiment, trainer: Trainer, paths: Sequence[Path]) -> list[Explained]:
    """Explains photographs from disk: the logit of the class that the model predicts."""
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"photograph {path} does not exist; give a JPEG or PNG file to --image")
    items = [Item(path.name, path.read_bytes(), None, []) for path in paths]
    return _explain(experiment, trainer, items, None, [path.name for path in paths])


def choose_positions(group: npt.NDArray[np.int64], per_group: int, max_groups: int, seed: int = 0) -> list[int]:
    """A fixed random choice of samples of each group, groups in order."""
    chosen: list[int] = []
    for value in np.unique(group)[:max_groups]:
        members = np.flatnonzero(group == value)
        generator = np.random.default_rng(seed)  # of each group, so that what is drawn beside it changes nothing
        chosen += sorted(generator.choice(members, size=min(per_group, len(members)), replace=False).tolist())
    return chosen


def extreme_positions(
    group: npt.NDArray[np.int64], epg: npt.NDArray[np.float64], per_group: int, max_groups: int
) -> list[int]:
    """The samples of each group with the largest EPG, then those with the smallest; unscored samples are left out."""
    chosen: list[int] = []
    scored = np.flatnonzero(np.isfinite(epg))
    for value in np.unique(group[scored])[:max_groups]:
        members = scored[group[scored] == value]
        ordered = members[np.argsort(-epg[members], kind="stable")]
        best = ordered[:per_group]
        chosen += [*best.tolist(), *ordered[len(best) :][-per_group:].tolist()]
    return chosen


def say_left_out(experiment: Experiment, split: str, max_groups: int) -> None:
    """Says how many groups of a split are not drawn."""
    there = len(np.unique(experiment.dataset.split(split).group))
    if there > max_groups:
        experiment.reporter.line(
            f"{max_groups} of {there} groups of '{split}' are drawn; --max-groups {there} draws all"
        )


def draw(rows: Sequence[Explained], out: Path, order: str = "") -> Path:
    """Draws one row a photograph of one run into a PNG; ``order`` says in the caption how the rows follow."""
    from matplotlib.figure import Figure

    names = [name for name in COLUMNS if name in rows[0].maps]
    has_truth = any(row.region is not None for row in rows)
    width = 1 + has_truth + len(names)
    figure = Figure(figsize=(2.1 * width, 2.25 * len(rows)), layout="constrained")
    axes = np.array(figure.subplots(len(rows), width)).reshape(len(rows), width)
    for row, line in zip(rows, axes, strict=True):
        line[0].imshow(row.image)
        line[0].set_title(f"{row.title}\npredicted {row.predicted}", fontsize=7, color=title_colour(row))
        if has_truth:
            draw_truth(line[1], row)
        for axis, name in zip(line[1 + has_truth :], names, strict=True):
            draw_map(axis, row, name)
            axis.set_title(COLUMNS[name] + epg_words(row, name), fontsize=7)
    return save(figure, "; ".join(words for words in (caption(rows), order) if words), out)


def draw_truth(axis: "Axes", row: Explained) -> None:
    """The photograph with the outline of its ground truth, where there is one."""
    axis.imshow(row.image)
    axis.set_title("ground truth", fontsize=7)
    if row.region is not None:
        axis.contour(row.region, levels=[0.5], colors="yellow", linewidths=1.2)


def draw_map(axis: "Axes", row: Explained, name: str) -> None:
    """One attribution over its photograph."""
    axis.imshow(row.image)
    axis.imshow(row.maps[name], cmap="inferno", alpha=0.6, vmin=0, vmax=1)


def epg_words(row: Explained, name: str) -> str:
    """The EPG of a map for its title; empty without ground truth."""
    if name not in row.epg:
        return ""
    return "  no positive part" if math.isnan(row.epg[name]) else f"  EPG {row.epg[name]:.2f}"


def title_colour(row: Explained) -> str:
    """Red over a wrong prediction."""
    return "black" if row.correct is None or row.correct else "firebrick"


def caption(rows: Sequence[Explained]) -> str:
    """What the colours and the numbers of a picture of these photographs mean."""
    lines = []
    if any(row.maps.keys() - OF_NO_CLASS for row in rows):
        known = all(row.correct is not None for row in rows)
        lines.append(f"maps: of the {'true' if known else 'predicted'} class")
    if any(row.correct is False for row in rows):
        lines.append("red: predicted wrongly")
    if any(row.region is not None for row in rows):
        lines.append("yellow: outline of the ground truth")
    if any(row.epg for row in rows):
        lines.append("EPG: share of a map's positive energy inside the ground truth")
    return "; ".join(lines)


def save(figure: "Figure", beneath: str, out: Path) -> Path:
    """Writes a figure whose axes carry pictures alone, with a caption beneath them."""
    if beneath:
        figure.supxlabel(beneath, fontsize=7, x=0.01, horizontalalignment="left", wrap=True)
    for axis in figure.axes:
        axis.set_axis_off()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    return out


def draw_run(
    run: str,
    *,
    data_root: Path,
    runs_root: Path,
    cards: Path | None,
    images: Sequence[Path],
    split: str,
    per_group: int,
    max_groups: int,
    out: Path,
    epg: npt.NDArray[np.float64] | None = None,
    check: Callable[[Experiment, Trainer], None] | None = None,
) -> Path:
    """Draws a run's explanations of given photographs, or of samples of each group of a split.

    With ``epg``, one value a sample of the split, the best and the worst of each group by it; ``check`` then raises
    unless they are the opened run's own.
    """
    experiment, trainer = open_run(run, data_root=data_root, runs_root=runs_root, cards=cards)
    if check is not None:
        check(experiment, trainer)
    if images:
        return draw(explain_files(experiment, trainer, images), out)
    order = ""
    group = experiment.dataset.split(split).group
    say_left_out(experiment, split, max_groups)
    if epg is None:
        positions = choose_positions(group, per_group, max_groups)
    else:
        positions = extreme_positions(group, epg, per_group, max_groups)
        if not positions:
            raise ConfigError(f"run {run} has no EPG of any sample of '{split}'; give --split test, or leave EPG out")
        order = "of each group the largest EPG in the record first, the smallest last"
    return draw(explain_samples(experiment, trainer, split, positions), out, order)


def _explain(
    experiment: Experiment,
    trainer: Trainer,
    items: Sequence[Item],
    labels: Tensor | None,
    groups: Sequence[str],
) -> list[Explained]:
    config = experiment.transform.without_augmentation()
    threshold = experiment.dataset.card.ground_truth.mask_threshold
    transform = Transform(config)
    by_mask = experiment.ground_truth == "mask"
    photographs = [decode(item, mask_threshold=threshold, with_mask=by_mask) for item in items]
    pairs = [transform(photograph, with_region=True) for photograph in photographs]
    device = trainer.fabric.device
    image = torch.stack([pair[0] for pair in pairs]).to(device)
    region = torch.stack([pair[1] for pair in pairs if pair[1] is not None]).to(device)
    if labels is None:
        with torch.no_grad():
            labels = trainer.model.predict(trainer.model.features(image), region).logits.argmax(dim=1)
        given = False
    else:
        given = True
    seen = attribute(trainer.model, experiment.method, image, labels.to(device), region, names=experiment.attributions)
    predicted = seen.output.logits.argmax(dim=1).cpu()
    classes = experiment.dataset.manifest.classes
    mean = torch.tensor(config.mean).view(3, 1, 1)
    std = torch.tensor(config.std).view(3, 1, 1)
    result = []
    for i, item in enumerate(items):
        has_truth = bool(region[i].any())
        maps = {name: _unit(value[i], config.image_size) for name, value in seen.maps.items()}
        epg = {}
        if has_truth:
            for name, value in seen.maps.items():
                score, undefined = energy_pointing_game(value[i : i + 1].float(), region[i])
                epg[name] = math.nan if bool(undefined[0]) else float(score[0])
        result.append(
            Explained(
                title=f"{groups[i]}\n{item.key[:LINE]}",
                predicted=classes[int(predicted[i])],
                image=(image[i].cpu() * std + mean).clamp(0, 1).permute(1, 2, 0).numpy(),
                region=region[i, 0].cpu().numpy() if has_truth else None,
                maps=maps,
                epg=epg,
                correct=bool(predicted[i] == labels[i]) if given else None,
            )
        )
    return result


def _unit(value: Tensor, size: int) -> npt.NDArray[np.float32]:
    """The positive part at the image's resolution, scaled so that its 99.5th percentile is 1."""
    positive = F.interpolate(value.detach().float().relu()[None, None], size=(size, size), mode="bilinear")[0, 0]
    top = torch.quantile(positive.flatten(), 0.995).clamp(min=1e-12)
    scaled: npt.NDArray[np.float32] = (positive / top).clamp(0, 1).cpu().numpy()
    return scaled
