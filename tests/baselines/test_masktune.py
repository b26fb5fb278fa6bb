"""MaskTune's heat and mask against a direct computation, and the epoch on masked images."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from aimbench.baselines.masktune import MaskTune, hidden_pixels, xgradcam
from aimbench.errors import ConfigError
from aimbench.train import checkpoint
from aimbench.train.api import Batch


def test_pixels_above_mean_plus_two_deviations_of_the_positive_heat_are_hidden() -> None:
    generator = np.random.default_rng(0)
    heat = np.maximum(generator.normal(size=(3, 6, 8)), 0)
    heat[0, 2, 3] = 9
    expected = []
    for image in heat:
        positive = image[image > 0]
        expected.append(image > positive.mean() + 2 * positive.std())
    # At its own resolution the heat is not interpolated.
    hidden = hidden_pixels(torch.from_numpy(heat), (6, 8), 2.0)
    np.testing.assert_array_equal(hidden.numpy(), np.stack(expected))
    assert hidden[0, 2, 3]
    assert not hidden_pixels(torch.zeros(1, 6, 8), (12, 16), 2.0).any()


def test_coarse_heat_starts_at_zero_and_is_enlarged_before_the_threshold_is_taken() -> None:
    heat = np.random.default_rng(0).gamma(1.0, size=(2, 4, 5)).astype(np.float32) + 3
    hidden = hidden_pixels(torch.from_numpy(heat), (32, 40), 1.0)
    for image, found in zip(heat, hidden.numpy(), strict=True):
        large = np.asarray(Image.fromarray(image - image.min()).resize((40, 32), Image.Resampling.BILINEAR))
        positive = large[large > 0]
        np.testing.assert_array_equal(found, large > positive.mean() + positive.std())
        assert found.any()


def test_heat_is_channels_weighted_by_their_share_of_the_gradient(experiment: Callable[..., Any]) -> None:
    trainer = experiment("masktune").trainer()
    batch = next(trainer.data.photographs("val", 3, region=False).epoch(np.arange(3), seed=0))
    model = trainer.model.eval()
    heat = xgradcam(model, batch, 64)
    (cached,) = (part for part in trainer.data.maps("val", model.head.stages).epoch(np.arange(3), seed=0))
    assert not cached.has_image
    torch.testing.assert_close(xgradcam(model, cached, 64), heat, rtol=1e-4, atol=1e-5)
    for i in range(3):
        features = [f.detach() for f in model.features(batch.image[i : i + 1])]
        features[-1].requires_grad_()
        model.predict(features).logits.max().backward()
        activation, gradient = features[-1].detach()[0], features[-1].grad[0]
        expected = torch.zeros(activation.shape[1:])
        for a, g in zip(activation, gradient, strict=True):
            expected += (g * a).sum() / (a.sum() + 1e-7) * a
        torch.testing.assert_close(heat[i], expected.clamp(min=0), rtol=1e-3, atol=1e-4)


def test_the_second_phase_sees_hidden_pixels_black(
    experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs: list[Any] = []
    original = MaskTune.loss

    def spying(self: MaskTune, model: Any, batch: Batch, progress: Any) -> Any:
        def noting(seen: Batch) -> Any:
            inputs.append((seen, batch))
            return model(seen)

        noting.pyramid = model.pyramid  # type: ignore[attr-defined]
        return original(self, noting, batch, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(MaskTune, "loss", spying)
    trainer = experiment("masktune", settings={"threshold": 1.0}, training={"epochs": 1}).trainer()
    trainer.fit()
    masked = [(seen, whole) for seen, whole in inputs if seen.has_image]
    assert [seen.has_image for seen, _ in inputs] == [False] * 6 + [True] * 6  # frozen: ERM on features
    heat = torch.from_numpy(np.load(trainer.folder / "artifacts" / "erm-xgradcam.npy"))
    black = torch.tensor([-m / s for m, s in zip(trainer.model.pyramid.mean, trainer.model.pyramid.std, strict=True)])
    for seen, whole in masked:
        resized = F.interpolate(heat[seen.index][:, None], size=seen.image.shape[-2:], mode="bilinear")[:, 0]
        changed = (seen.image != whole.image).any(dim=1)
        assert changed.any()
        assert torch.equal(changed, hidden_pixels(heat[seen.index], (64, 64), 1.0))
        for image, was, now, where in zip(resized, whole.image, seen.image, changed, strict=True):
            assert torch.equal(now[:, ~where], was[:, ~where])
            torch.testing.assert_close(now[:, where], black[:, None].expand(3, int(where.sum())))
            if where.any():
                assert image[where].min() >= image[~where].max() - 1e-5  # the hottest ones


def test_heat_is_of_the_selected_epoch_and_the_masked_epoch_goes_on_from_the_last(
    experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aimbench.train.loop.select", lambda selector, scores: 0)
    states: list[dict[str, torch.Tensor]] = []  # before each epoch
    original = MaskTune.loss

    def noting(self: MaskTune, model: Any, batch: Batch, progress: Any) -> Any:
        if progress.step == progress.epoch * progress.steps // progress.epochs:
            states.append({name: value.clone() for name, value in model.head.state_dict().items()})
        return original(self, model, batch, progress)

    monkeypatch.setattr(MaskTune, "loss", noting)
    trainer = experiment("masktune", training={"epochs": 3, "lr": 0.05}).trainer()
    trainer.fit()
    _, first, _, masked = states
    last = checkpoint.load(trainer.folder / "phase-0.pt")["model"]
    assert all(torch.equal(last[f"head.{name}"], value) for name, value in masked.items())
    heat = torch.from_numpy(np.load(trainer.folder / "artifacts" / "erm-xgradcam.npy"))
    model = trainer.model.eval()
    model.head.load_state_dict(first)
    torch.testing.assert_close(torch.cat([xgradcam(model, batch, 64) for batch in trainer.maps("train")]), heat)
    model.head.load_state_dict(masked)
    assert not torch.allclose(torch.cat([xgradcam(model, batch, 64) for batch in trainer.maps("train")]), heat)


def test_a_schedule_that_ends_at_zero_is_refused(experiment: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="zero under --schedule cosine; use step or constant"):
        experiment("masktune", training={"schedule": "cosine"})


def test_the_masked_epoch_goes_on_with_the_optimiser() -> None:
    run = SimpleNamespace(config=SimpleNamespace(image_size=8), map_training=lambda name, function: torch.zeros(1))
    erm, masked = MaskTune(MaskTune.configure({})).phases(run)  # type: ignore[arg-type]
    assert (erm.epochs, erm.keep_optimizer) == (None, False)
    assert (masked.epochs, masked.keep_optimizer, masked.images, masked.start) == (1, True, True, "current")
    assert masked.settings == {"augment": False}  # the heat is that of the image as it is without


def test_heat_of_a_plain_vit_lies_on_its_grid_of_patches(experiment: Callable[..., Any]) -> None:
    trial = experiment("masktune", backbone="test_vit.r160_in1k", training={"image_size": 96, "epochs": 1})
    trainer = trial.trainer()
    trainer.fit()
    heat = np.load(trainer.folder / "artifacts" / "erm-xgradcam.npy")
    assert heat.shape == (len(trial.dataset.split("train")), 6, 6)
