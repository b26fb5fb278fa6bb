"""Probes of a trained run, through the command line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aimbench.data.decode import decode
from aimbench.data.transforms import Transform, TransformConfig
from aimbench.errors import DataError
from aimbench.metrics import perturbations
from aimbench.metrics.perturbations import noise_on_object
from aimbench.metrics.probe_words import probe_words
from aimbench.results.store import Store
from aimbench.results.validate import check_record
from aimbench.train import checkpoint
from aimbench.train.evaluate import evaluated_positions
from aimbench.train.probes import _faithfulness, noisy, probe, relative_foreground_sensitivity, summarise


def test_relative_foreground_sensitivity_by_hand() -> None:
    # Mean 0.6, room 0.4: (0.8 - 0.4) / 0.8.
    assert relative_foreground_sensitivity(0.4, 0.8) == pytest.approx(0.5)
    assert relative_foreground_sensitivity(0.8, 0.4) == pytest.approx(-0.5)
    assert relative_foreground_sensitivity(0.0, 0.5) == pytest.approx(1.0)
    assert relative_foreground_sensitivity(1.0, 1.0) == 0.0


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_a_sensitivity_that_no_sample_tells_of_may_be_any(right: float) -> None:
    rows = np.full(10, right)
    found = summarise({"accuracy_noise_on_object": rows, "accuracy_noise_on_background": rows})["rfs"]
    assert (found.value, found.low, found.high) == (0.0, -1.0, 1.0)
    # One error in ten, under noise on the object: a third of the draws have none, and tell nothing.
    found = summarise({"accuracy_noise_on_object": np.r_[0.0, np.ones(9)], "accuracy_noise_on_background": np.ones(10)})
    assert (found["rfs"].value, found["rfs"].low) == (pytest.approx(1.0), -1.0)


def test_relative_foreground_sensitivity_stays_between_its_ends() -> None:
    found = [relative_foreground_sensitivity(right / 400, 1.0) for right in range(401)]
    assert min(found) >= -1
    assert max(found) <= 1


def test_noise_is_drawn_in_colours_of_0_to_1_and_cut_there() -> None:
    transform = TransformConfig(4, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))
    mean, std = (torch.tensor(values)[:, None, None] for values in (transform.mean, transform.std))
    torch.manual_seed(0)
    colours, region = torch.rand(2, 3, 40, 60), torch.zeros(2, 40, 60, dtype=torch.bool)
    region[:, :, :20] = True
    found, _ = noisy(noise_on_object, (colours - mean) / std, region, transform, torch.tensor([5, 2]))
    # As the authors of Hard ImageNet write it: noise of 0.25 on colours, cut, then normalised.
    noise = torch.stack([torch.randn(3, 40, 60, generator=torch.Generator().manual_seed(i)) for i in (5, 2)])
    expected = (colours + region[:, None] * noise * 0.25).clamp(0, 1)
    torch.testing.assert_close(found * std + mean, expected, atol=1e-6, rtol=0)
    assert (expected[:, :, :, :20] == 0).any()


@pytest.mark.parametrize("method", ["erm", "scda", pytest.param("oracle_mask", marks=pytest.mark.slow)])
def test_probes_are_written_into_the_record(
    method: str,
    experiment: Callable[..., Any],
    mini_root: Path,
    tmp_path: Path,
    command: Callable[..., tuple[int, str, str]],
) -> None:
    trial = experiment(method, training={"epochs": 1})
    result = trial.run()
    store = Store(tmp_path / "results")
    path = store.write_run(result.record, result.files)
    before = json.loads(path.read_text())

    def call(*words: str) -> tuple[int, str]:
        roots = ["--data", str(mini_root), "--runs", str(tmp_path / "runs"), "--results", str(store.root)]
        status, _, error = command("probe", trial.id, *roots, *words)
        return status, error

    assert call("--samples", "12", "--tests", "greyed,rfs")[0] == 0
    assert call("--samples", "12", "--tests", "centre-bias,ablations,faithfulness")[0] == 0
    after = json.loads(path.read_text())
    probes = after.pop("probes")
    before.pop("probes")
    assert after == before  # nothing else changes
    changes = {"grey_outside", "grey_object", "grey_box", "tile_box", "moved_to_border", "cut_as_if_moved"}
    changes |= {"noise_on_object", "noise_on_background"}
    areas = {f"{kind}_{name}" for kind in ("deletion", "insertion") for name in ("gradcam", "input_x_gradient")}
    if method == "scda":  # it has a mask of its own
        changes |= {"grey_outside_own_mask"}
        areas |= {f"{kind}_mask" for kind in ("deletion", "insertion")}
    assert set(probes) == {"accuracy", "rfs", *(f"accuracy_{change}" for change in changes), *areas}
    for name, value in probes.items():
        assert value["n"] == 12, name
        assert value["low"] <= value["value"] <= value["high"], name
        assert probe_words(name), name
    assert check_record(store, path) == []

    assert call("--tests", "gryed") == (2, "error: unknown probe 'gryed': did you mean 'greyed'?\n")
    assert "give at least 1" in call("--samples", "0")[1]

    path.unlink()
    status, error = call("--samples", "12", "--tests", "greyed")
    assert status == 0
    assert error.startswith(f"{store.records} holds no record {trial.id}: what is found is shown here and not written")


def test_centre_bias_needs_boxes_alone(experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    trial = experiment("erm", training={"epochs": 1})
    trainer, index = trial.trainer(), trial.dataset.split("test")
    chosen = evaluated_positions(len(index), 10)
    bare = {index.keys[i] for i in chosen[:3]}  # these have no box either

    def without_masks(item: Any, **options: Any) -> Any:
        photograph = decode(item, **options)
        return replace(photograph, mask=None, boxes=photograph.boxes[: 0 if item.key in bare else None])

    def centre_bias() -> dict[str, Any]:
        return probe(trainer.fabric, trainer.model, trial.method, trainer.data, ["centre-bias"], 10, trial.reporter)

    features, seen = trainer.model.features, list[torch.Tensor]()
    monkeypatch.setattr("aimbench.data.loader.decode", without_masks)
    monkeypatch.setattr(trainer.model, "features", lambda image: seen.append(image) or features(image))
    assert {value.n for value in centre_bias().values()} == {7}
    original, moved, cut = seen
    # By hand: each photograph rolled until its box touches the farthest border; what comes in again is grey.
    transform = Transform(trial.transform.without_augmentation())
    for row, i in enumerate(chosen[3:]):
        image, region = transform(without_masks(index.read(i), mask_threshold=0.5), with_region=True)
        torch.testing.assert_close(original[row], image)
        rows, columns = np.nonzero(region[0].numpy())
        ways = {(1, -1): rows.min(), (1, 1): 63 - rows.max(), (2, -1): columns.min(), (2, 1): 63 - columns.max()}
        axis, sign = max(ways, key=lambda way: ways[way])
        step = sign * int(ways[axis, sign])
        left = torch.arange(64) < 64 - step if step > 0 else torch.arange(64) >= -step  # lines that stay in the picture
        left = left[:, None] if axis == 1 else left
        torch.testing.assert_close(moved[row], (image * left).roll(step, dims=axis))
        torch.testing.assert_close(cut[row], image * left)

    bare |= set(index.keys)
    with pytest.raises(DataError, match="no test sample has a mask or a box"):
        centre_bias()


def test_grey_outside_ones_own_masks_keeps_what_any_of_them_opens(
    experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = experiment("aim", settings={"stop_stage": 2})
    trainer = trial.trainer()
    with torch.no_grad():  # masks of either stage that are partly open, at different places
        for parameter in trainer.model.head.topdown.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    kept = list[torch.Tensor]()
    grey = perturbations.grey_outside
    monkeypatch.setattr(perturbations, "grey_outside", lambda image, keep: kept.append(keep) or grey(image, keep))
    batch = next(trainer.data.photographs("test", 8, region=True).epoch(np.arange(8), seed=0))
    model = trainer.model.eval()
    _faithfulness(model, trial.method, batch.image, batch.label, batch.mask[:, 0])
    with torch.no_grad():
        masks = model.predict(model.features(batch.image)).masks.values()
    opened = [F.interpolate(m, size=batch.image.shape[-2:], mode="nearest-exact")[:, 0] > 0 for m in masks]
    assert not torch.equal(opened[0], opened[1])
    torch.testing.assert_close(kept[0], opened[0] | opened[1])


def test_another_training_of_the_run_is_not_written_into_its_record(
    experiment: Callable[..., Any],
    mini_root: Path,
    tmp_path: Path,
    command: Callable[..., tuple[int, str, str]],
) -> None:
    trial = experiment("erm", training={"epochs": 2})
    result = trial.run()
    store = Store(tmp_path / "results")
    path = store.write_run(result.record, result.files)
    before = path.read_bytes()
    roots = ["--data", str(mini_root), "--runs", str(tmp_path / "runs"), "--results", str(store.root)]

    def refused() -> str:
        status, _, error = command("probe", trial.id, *roots, "--samples", "8", "--tests", "greyed")
        assert status == 2
        assert path.read_bytes() == before
        return error

    (trial.folder / "rerun").touch()
    assert "is being made again" in refused()
    (trial.folder / "rerun").unlink()
    chosen = checkpoint.load(trial.folder / "selected.pt")
    checkpoint.save(trial.folder / "selected.pt", {**chosen, "epoch": 1 - chosen["epoch"]})
    assert "but its record tells of epoch" in refused()
    turned = {name: -value if name.startswith("head.") else value for name, value in chosen["model"].items()}
    checkpoint.save(trial.folder / "selected.pt", {**chosen, "model": turned})
    assert "so the record tells of another training" in refused()
