"""The model of a run: made anew where a phase says so, saved without what is frozen."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from aimbench.data.sharing import share
from aimbench.errors import ConfigError
from aimbench.models.classifier import Classifier
from aimbench.models.global_norm import GlobalBatchNorm
from aimbench.train.config import TrainConfig
from aimbench.train.optim import set_trainable
from aimbench.train.phase import Phase


class RunModel:
    """Holds the model as it stands, ``model``.

    Args:
        build: makes the untrained model (pretrained backbone, fresh head).
        config: what is trained, and the memory layout.
        seed: of a fresh head.
        device: where it computes.
        folder: of the run, for messages.
        compile: run the backbone through torch's compiler; names of parameters stay.
    """

    def __init__(
        self,
        build: Callable[[], Classifier],
        config: TrainConfig,
        seed: int,
        device: torch.device,
        folder: Path,
        *,
        compile: bool = False,
    ) -> None:
        self._build = build
        self._config = config
        self._seed = seed
        self._device = device
        self._folder = folder
        self._compile = compile
        self.model = self.fresh()

    def fresh(self) -> Classifier:
        """An untrained model; the same one each time."""
        torch.manual_seed(self._seed)
        model = self._build()
        if share().count > 1:
            GlobalBatchNorm.replace_in(model)
        model = model.to(self._device)
        if self._config.channels_last:
            model = model.to(memory_format=torch.channels_last)
        set_trainable(model, self._config.train)
        if self._compile:
            model.pyramid.compile()
        return model

    def start(self, phase: Phase) -> None:
        """Makes anew what ``phase`` does not take over from the last one."""
        if phase.start == "pretrained":
            self.model = self.fresh()
        elif phase.start == "new_head":
            backbone = {name: value.clone() for name, value in self.model.pyramid.state_dict().items()}
            self.model = self.fresh()
            self.model.pyramid.load_state_dict(backbone)

    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers, without those of a frozen backbone."""
        return {name: value for name, value in self.model.state_dict().items() if not self._is_frozen(name)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Loads what ``state`` returned.

        Raises:
            ConfigError: it is the state of another method.
        """
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        absent = [name for name in missing if not self._is_frozen(name)]
        if absent or unexpected:
            raise ConfigError(
                f"checkpoint in {self._folder} does not fit the method: missing {absent[:3]}, unexpected"
                f" {list(unexpected)[:3]}; start over with --fresh"
            )

    def _is_frozen(self, name: str) -> bool:
        return self._config.train == "head" and name.startswith("pyramid.")
