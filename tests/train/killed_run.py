"""``aimbench run`` in a process that may stop dead at a given point: what test_resume.py starts.

    python killed_run.py WHERE COUNT WORDS...

WHERE is ``never``, ``step`` (before the COUNTth step), ``checkpoint`` (an epoch's predictions are written, its
checkpoint is not, at the COUNTth checkpoint) or ``phase`` (right after the COUNTth phase's last file). The exit
status of a process that stopped dead is 9.
"""

import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.nn import functional as F

from aimbench.cli import main
from aimbench.train import checkpoint
from aimbench.train.api import Batch, Classifier, Loss, Method, Phase, Progress, Regime, Run, register_method
from aimbench.train.steps import Steps


@register_method("two_phases", regime=Regime(), source="a test")
class TwoPhases(Method):
    """Trains, then trains anew with its errors drawn more often."""

    def phases(self, run: Run) -> Iterator[Phase]:
        """As JTT does."""
        yield Phase("identify", epochs=2)
        weights = np.ones(len(run.labels))
        weights[run.predict("train").errors()] = 5
        yield Phase("retrain", start="pretrained", weights=weights)

    def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy."""
        return F.cross_entropy(model(batch).logits, batch.label)


def stop_dead() -> None:
    os._exit(9)


def arm(where: str, count: int) -> None:
    """Patches the engine so that the process ends at the point named."""
    calls = 0
    step, save = Steps.step, checkpoint.save

    def counted_step(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            stop_dead()
        return step(*args, **kwargs)

    def counted_save(path: Any, state: Any) -> None:
        nonlocal calls
        matches = path.name == "last.pt" if where == "checkpoint" else path.name.startswith("phase-")
        calls += matches
        reached = matches and calls == count
        if reached and where == "checkpoint":
            stop_dead()
        save(path, state)
        if reached:
            stop_dead()

    if where == "step":
        Steps.step = counted_step  # type: ignore[method-assign]
    elif where in ("checkpoint", "phase"):
        checkpoint.save = counted_save


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    sys.argv = ["aimbench", *sys.argv[3:]]
    main()
