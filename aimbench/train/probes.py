"""What a model does when object or background is taken away, moved or made noisy, and how faithful its maps are."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional as F

from aimbench.data.transforms import TransformConfig
from aimbench.errors import ConfigError, DataError, nearest_names
from aimbench.metrics import perturbations as p
from aimbench.metrics.statistics import bootstrap_mean_interval, wilson_interval
from aimbench.models.classifier import Classifier
from aimbench.record import Probe
from aimbench.train.attributions import DEFAULT, attribute
from aimbench.train.evaluate import BATCH, evaluated_positions
from aimbench.train.method import Method
from aimbench.train.progress import Reporter
from aimbench.train.sources import RunData

PROBES: dict[str, tuple[str, ...]] = {
    "greyed": ("grey_outside", "grey_object"),
    "ablations": ("grey_object", "grey_box", "tile_box"),
    "rfs": ("noise_on_object", "noise_on_background"),
    "centre-bias": ("moved_to_border", "cut_as_if_moved"),
    "faithfulness": (),
}
"""Probes on the command line, and the altered images that each needs."""

NOISE = 0.25
"""Standard deviation of the noise of RFS, of images in [0, 1]; noisy images are cut to that range."""

_GEOMETRIC: dict[str, p.Perturbation] = {
    "grey_outside": p.grey_outside,
    "grey_object": p.grey_object,
    "grey_box": p.grey_box,
    "tile_box": p.tile_box,
    "moved_to_border": p.moved_to_border,
    "cut_as_if_moved": p.cut_as_if_moved,
}
_NOISY: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "noise_on_object": p.noise_on_object,
    "noise_on_background": p.noise_on_background,
}
Values = dict[str, npt.NDArray[np.float64]]


def check_probes(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names in a fixed order.

    Raises:
        ConfigError: one is unknown, or there is none.
    """
    for name in names:
        if name not in PROBES:
            raise ConfigError(f"unknown probe '{name}': {nearest_names(name, PROBES)}")
    if not names:
        raise ConfigError(f"no probe named; known: {', '.join(PROBES)}")
    return tuple(name for name in PROBES if name in names)


def probe(
    fabric: Fabric,
    model: Classifier,
    method: Method,
    data: RunData,
    probes: Sequence[str],
    subset: int | None,
    reporter: Reporter,
) -> dict[str, Probe]:
    """Runs probes on the test samples that have ground truth.

    Accuracies are named ``accuracy`` (of the same samples untouched) and ``accuracy_<change>``; areas
    ``deletion_<attribution>`` and ``insertion_<attribution>``, and, with ``faithfulness`` for a method with masks,
    ``accuracy_grey_outside_own_mask``, where the image is grey outside the mask that the method gave it; ``rfs`` is
    relative foreground sensitivity (Moayeri et al. 2022): (b - f) / (2 min(m, 1 - m)) with accuracies f and b under
    noise on object and background, one draw an image, and their mean m.

    Raises:
        ConfigError: a probe is unknown.
        DataError: no sample has ground truth.
    """
    changes = list(dict.fromkeys(change for name in check_probes(probes) for change in PROBES[name]))
    source = data.photographs("test", BATCH, region=True)
    order = evaluated_positions(len(source), subset)
    columns: dict[str, list[Tensor]] = {}
    model.eval()
    with reporter.task("probes on test", len(order)) as task:
        for batch in source.epoch(order, seed=0):
            task.advance(len(batch))
            loaded = batch.to(fabric.device, channels_last=True)
            known = loaded.mask[:, 0].flatten(1).any(dim=1)
            if not bool(known.any()):
                continue
            image, label, region = loaded.image[known], loaded.label[known], loaded.mask[known, 0] > 0
            with fabric.autocast():
                rows = _accuracies(model, image, label, region, changes, data.transform, batch.index[known.cpu()])
                if "faithfulness" in probes:
                    rows |= _faithfulness(model, method, image, label, region)
            for name, values in rows.items():
                columns.setdefault(name, []).append(values.float().cpu())
    if not columns:
        raise DataError("probes: no test sample has a mask or a box; they need to know where the object is")
    return summarise({name: torch.cat(parts).double().numpy() for name, parts in columns.items()})


def summarise(values: Values) -> dict[str, Probe]:
    """Means over the samples with 95 % intervals: Wilson's for accuracies, bootstrap for areas and RFS."""
    result = {}
    for name, rows in values.items():
        if name.startswith("accuracy"):
            low, high = (float(limit) for limit in wilson_interval(rows.sum(), len(rows)))
        else:
            low, high = bootstrap_mean_interval(rows)
        result[name] = Probe(value=float(rows.mean()), low=low, high=high, n=len(rows))
    names = ("accuracy_noise_on_object", "accuracy_noise_on_background")
    if all(name in values for name in names):
        result["rfs"] = _rfs_probe(values[names[0]], values[names[1]])
    return result


def relative_foreground_sensitivity(on_object: float, on_background: float) -> float:
    """RFS of two accuracies, in [-1, 1]; 0 where both are 0 or both are 1."""
    mean = (on_object + on_background) / 2
    room = min(mean, 1 - mean)
    sensitivity = (on_background - on_object) / (2 * room) if room > 0 else 0.0
    return min(max(sensitivity, -1.0), 1.0)  # rounding may pass the ends


def _rfs_probe(on_object: npt.NDArray[np.float64], on_background: npt.NDArray[np.float64]) -> Probe:
    generator = np.random.default_rng(0)
    lows, highs = [], []
    for _ in range(1000):
        rows = generator.integers(len(on_object), size=len(on_object))
        accuracies = on_object[rows].mean(), on_background[rows].mean()
        drawn = relative_foreground_sensitivity(*accuracies)
        # Draws without an error, or with nothing right, would go with any sensitivity.
        told = 0 < sum(accuracies) < 2
        lows.append(drawn if told else -1.0)
        highs.append(drawn if told else 1.0)
    low, high = np.quantile(lows, 0.025), np.quantile(highs, 0.975)
    value = relative_foreground_sensitivity(float(on_object.mean()), float(on_background.mean()))
    return Probe(value=value, low=float(low), high=float(high), n=len(on_object))


@torch.no_grad()
def _accuracies(
    model: Classifier,
    image: Tensor,
    label: Tensor,
    region: Tensor,
    changes: Sequence[str],
    transform: TransformConfig,
    index: Tensor,
) -> dict[str, Tensor]:
    rows = {"accuracy": _correct(model, image, region, label)}
    for change in changes:
        if change in _GEOMETRIC:
            altered = _GEOMETRIC[change](image, region)
        else:
            altered = noisy(_NOISY[change], image, region, transform, index)
        rows[f"accuracy_{change}"] = _correct(model, *altered, label)
    return rows


def noisy(
    add: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    image: Tensor,
    region: Tensor,
    transform: TransformConfig,
    index: Tensor,
) -> tuple[Tensor, Tensor]:
    """Normalised images and regions after ``add`` put noise on them; no pixel is darker than black or over white.

    The noise follows from each sample's place ``index`` in its split, not from its batch.
    """
    drawn = [torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(int(i))) for i in index]
    mean, std = (torch.tensor(values).to(image)[:, None, None] for values in (transform.mean, transform.std))
    altered, where = add(image, region, NOISE / std * torch.stack(drawn).to(image))
    return altered.clamp(-mean / std, (1 - mean) / std), where


def _correct(model: Classifier, image: Tensor, region: Tensor, label: Tensor) -> Tensor:
    return _logits(model, image, region).argmax(dim=1) == label


def _logits(model: Classifier, image: Tensor, region: Tensor) -> Tensor:
    return model.predict(model.features(image), region[:, None].to(image)).logits


def _faithfulness(model: Classifier, method: Method, image: Tensor, label: Tensor, region: Tensor) -> dict[str, Tensor]:
    maps = attribute(model, method, image, label, region[:, None].to(image), names=DEFAULT).maps
    rows = {}
    with torch.no_grad():
        if "mask" in maps:
            seen = F.interpolate(maps["mask"].float()[:, None], size=image.shape[-2:], mode="nearest-exact")[:, 0]
            altered, _ = p.grey_outside(image, seen > 0)  # of several masks, what any of them opens
            rows["accuracy_grey_outside_own_mask"] = _correct(model, altered, region, label)
        for name, map_ in maps.items():
            for kind in ("deletion", "insertion"):
                rows[f"{kind}_{name}"] = p.removal_curve(
                    lambda altered: _logits(model, altered, region), image, map_, label, insert=kind == "insertion"
                )
    return rows
