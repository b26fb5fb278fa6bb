"""Which epoch is reported: pure functions over the scores of each epoch.

A run is evaluated once an epoch and selected afterwards, so a record can show
what every selector would have reported. A selector that reads group labels of
the validation set, or the test set, says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from aimbench.errors import ConfigError, nearest_names
from aimbench.record import SelectorScore


@dataclass(frozen=True)
class EpochScore:
    """Scores of the model as it stood after one epoch.

    Attributes:
        phase: Name of the training phase.
        epoch: Epoch within the phase.
        val: Scores on the validation split, with the keys of ``groups.headline``.
        test: The same on the test split.
        is_candidate: A selector may choose this epoch; False while a method's schedule is still
            on its way to the model that the method is named for.
    """

    phase: str
    epoch: int
    val: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, float] = field(default_factory=dict)
    is_candidate: bool = True


@dataclass(frozen=True)
class Selector:
    """A rule that chooses one epoch.

    Attributes:
        name: Name on the command line and in the record.
        split: Split whose scores it reads; None: it takes the last epoch.
        metric: Score that it maximises.
        uses_groups: It reads group labels, which a method's regime must allow.
        oracle: It reads the test set. Never a headline.
    """

    name: str
    split: Literal["val", "test"] | None = None
    metric: str = ""
    uses_groups: bool = False
    oracle: bool = False

    def __call__(self, epochs: Sequence[EpochScore]) -> int:
        """Index of the epoch chosen; the earliest of equals.

        Args:
            epochs: Epochs in training order, those whose model could be the final one.

        Raises:
            ConfigError: If there is no epoch, or one lacks the score.
        """
        if not epochs:
            raise ConfigError(f"selector '{self.name}': no epochs to choose from; train for at least one")
        if self.split is None:
            return len(epochs) - 1
        scores = [self._score(epoch) for epoch in epochs]
        return scores.index(max(scores))

    def applies_to(self, epochs: Sequence[EpochScore]) -> bool:
        """True if every epoch has the score that this selector reads (a set without groups has no WGA)."""
        return bool(epochs) and (
            self.split is None or all(self.metric in self._split_scores(epoch) for epoch in epochs)
        )

    def _score(self, epoch: EpochScore) -> float:
        scores = self._split_scores(epoch)
        if self.metric not in scores:
            raise ConfigError(
                f"selector '{self.name}': epoch {epoch.epoch} of phase '{epoch.phase}' has no {self.split} "
                f"'{self.metric}'; choose another selector, such as 'last' or 'val_accuracy'"
            )
        return scores[self.metric]

    def _split_scores(self, epoch: EpochScore) -> Mapping[str, float]:
        return epoch.test if self.split == "test" else epoch.val


SELECTORS: dict[str, Selector] = {
    selector.name: selector
    for selector in (
        Selector("last"),
        Selector("val_accuracy", "val", "accuracy"),
        Selector("val_class_balanced_accuracy", "val", "class_balanced_accuracy"),
        Selector("val_worst_group_accuracy", "val", "worst_group_accuracy", uses_groups=True),
        Selector("oracle_test_worst_group_accuracy", "test", "worst_group_accuracy", uses_groups=True, oracle=True),
    )
}


def check_headline(name: str) -> None:
    """Checks that a run may be reported by the named selector.

    Raises:
        ConfigError: it is unknown, or reads the test set.
    """
    if name not in SELECTORS:
        raise ConfigError(f"unknown selector '{name}': {nearest_names(name, SELECTORS)}")
    if SELECTORS[name].oracle:
        raise ConfigError(
            f"selector '{name}' reads the test set and can never be a headline; every record shows it beside the"
            " others, so choose one of them"
        )


def select(name: str, epochs: Sequence[EpochScore]) -> int:
    """Index of the epoch that the named selector chooses.

    Args:
        name: A key of ``SELECTORS``.
        epochs: Epochs in training order.

    Raises:
        ConfigError: If the name is unknown, there is no epoch, or one lacks the score.
    """
    if name not in SELECTORS:
        raise ConfigError(f"unknown selector '{name}'; {nearest_names(name, SELECTORS)}")
    return SELECTORS[name](epochs)


def selector_scores(epochs: Sequence[EpochScore]) -> dict[str, SelectorScore]:
    """What every selector that applies would report, for the record.

    Args:
        epochs: All epochs in training order; those of the last phase that are candidates are chosen from.
    """
    last = [epoch for epoch in epochs if epoch.phase == epochs[-1].phase and epoch.is_candidate]
    result = {}
    for name, selector in SELECTORS.items():
        if selector.applies_to(last):
            chosen = last[selector(last)]
            result[name] = SelectorScore(
                phase=chosen.phase,
                epoch=chosen.epoch,
                val=dict(chosen.val),
                test=dict(chosen.test),
                uses_groups=selector.uses_groups,
                oracle=selector.oracle,
            )
    return result
