"""JTT's error set and the copies of it, counted."""

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch.nn import functional as F

from aimbench.baselines.jtt import JTT, with_repeated
from aimbench.train import checkpoint
from aimbench.train.method import Progress
from aimbench.train.steps import Steps


def test_errors_are_repeated_and_everything_else_comes_once() -> None:
    counts = Counter(with_repeated(6, np.array([1, 4]), 3).tolist())
    assert counts == {0: 1, 1: 3, 2: 1, 3: 1, 4: 3, 5: 1}
    assert with_repeated(3, np.array([], dtype=np.int64), 100).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("copies", "seen"), [("upweight", 5), ("upweight+1", 6)])
def test_what_the_first_model_misclassified_is_what_is_repeated(
    copies: str, seen: int, experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Counter[int]] = {}
    wrong: set[int] = set()
    step = Steps.step

    def noting(steps: Steps, batch: Any, size: int, progress: Progress) -> Any:
        phase = "identify" if progress.epochs == 2 else "train"
        if phase == "train" and progress.step == 0:
            # The error set anew, from the first phase's last checkpoint, without the engine's predictions.
            first = trial.trainer()
            first.load_state(checkpoint.load(trial.folder / "phase-0.pt")["model"])
            source = first.data.evaluation("train")
            first.model.eval()
            for part in source.epoch(np.arange(len(source)), seed=0):
                logits = first.model(part).logits.detach()
                losses = F.cross_entropy(logits, part.label, reduction="none").exp()
                wrong.update(part.index[losses > 2].tolist())  # two classes: wrong if p_y < 1/2
        drawn.setdefault(phase, Counter()).update(batch.index.tolist())
        return step(steps, batch, size, progress)

    monkeypatch.setattr(Steps, "step", noting)
    settings = {"identify_epochs": 2, "upweight": 5, "copies": copies}
    trial = experiment("jtt", settings=settings, training={"epochs": 1})
    trial.trainer().fit()
    size = len(trial.dataset.split("train"))
    assert drawn["identify"] == dict.fromkeys(range(size), 2)
    assert wrong
    # A batch of a single sample is dropped, so that one draw may be missing.
    expected = Counter({i: seen if i in wrong else 1 for i in range(size)})
    assert (expected - drawn["train"]).total() <= 1
    assert not drawn["train"] - expected


@pytest.mark.parametrize(("epochs", "identifying"), [(20, 4), (21, 5), (2, 1)])
def test_the_second_phase_starts_anew_and_a_fifth_of_the_epochs_identifies(epochs: int, identifying: int) -> None:
    errors = np.array([2])
    run = SimpleNamespace(
        labels=np.zeros(4, dtype=np.int64),
        config=SimpleNamespace(epochs=epochs),
        predict=lambda split: SimpleNamespace(errors=lambda: errors),
    )
    identify, train = JTT(JTT.configure({"upweight": 3})).phases(run)  # type: ignore[arg-type]
    assert (identify.epochs, train.start) == (identifying, "pretrained")
    assert train.subset is not None
    assert sorted(train.subset.tolist()) == [0, 1, 2, 2, 2, 2, 3]
