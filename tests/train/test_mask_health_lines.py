"""Each epoch says how the masks fare on the validation split; its ground truth reaches the report and nothing else."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from aimbench.metrics.health_words import summary
from aimbench.train.progress import Reporter


def lines_of(trial: Any) -> tuple[Any, str]:
    text = io.StringIO()
    trial.reporter = Reporter(Console(file=text, width=400))
    trainer = trial.trainer()
    trainer.fit()
    return trainer, text.getvalue()


@pytest.mark.parametrize("train", ["head", "all"])
def test_every_epoch_shows_and_records_the_masks(train: str, experiment: Callable[..., Any]) -> None:
    trial = experiment("aim", settings={"stop_stage": 2}, training={"train": train})
    trainer, text = lines_of(trial)
    assert text.count("masks on val: stage3 ") == 2
    assert text.count("; stage2 ") == 2
    # Counted anew from the model as it stands after the last epoch.
    shares, inside, outside = [], 0.0, 0.0
    trainer.load_state(torch.load(trainer.last_file, weights_only=True)["model"])
    trainer.model.eval()
    source = trainer.data.photographs("val", 16, region=True)
    for batch in source.epoch(np.arange(len(source)), seed=0):
        with torch.no_grad():
            mask = trainer.model.predict(trainer.model.features(batch.image)).masks["stage3"]
        shares += mask.mean(dim=(1, 2, 3)).tolist()
        tall = mask.repeat_interleave(32, dim=2).repeat_interleave(32, dim=3)  # 2x2 positions of 64 px
        known = batch.mask.flatten(1).any(dim=1)
        inside += float((tall * batch.mask)[known].sum())
        outside += float((tall * (1 - batch.mask))[known].sum())
    logged = trainer.clock.log[-1]
    assert logged["val stage3_active"] == pytest.approx(np.mean(shares), abs=1e-4)
    assert logged["val stage3_inside"] == pytest.approx(inside / (inside + outside), abs=1e-3)


def test_a_mask_that_never_closes_is_warned_of_once_its_target_is_due(experiment: Callable[..., Any]) -> None:
    settings = {"area_weight": 0.0, "initial_logit": 50.0}
    _, text = lines_of(experiment("aim", settings=settings, training={"epochs": 4}))
    first_lines, _, later = text.partition("train 2/4")
    assert "warning" not in first_lines
    assert later.count("open everywhere") == 1, "said once, not every epoch"


def test_a_method_without_masks_reads_no_ground_truth(
    experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aimbench.train.sources.RunData.regions", lambda *_: pytest.fail("ground truth was read"))
    _, text = lines_of(experiment("erm", training={"epochs": 1}))
    assert "masks" not in text


def test_summary_is_plain_words() -> None:
    values = {"stage3_active": 0.25, "stage3_variance": 0.125, "stage3_inside": 0.5, "object_share": 0.1}
    assert summary(values) == "stage3 25% active, variance 0.125, 50% inside the object"
    assert summary({"stage2_active": 1.0}) == "stage2 100% active"
