"""What the numbers of a mask's health say, in words; needs no torch."""

from collections.abc import Mapping

_MOSTLY = 0.5  # share of samples from which on a mask is called open everywhere
_SOME = 0.05  # share of samples that a classifier may see nothing of before it is reported
_SAME = 0.02  # share of a mask's variance that must come from the image


def warnings(values: Mapping[str, float]) -> list[str]:
    """What is wrong with a mask, in plain words.

    Args:
        values: Of ``MaskHealth.compute``.

    Returns:
        One sentence a finding; empty for healthy masks.
    """
    found = []
    for stage in _stages(values):
        active, all_open = values[f"{stage}_active"], values[f"{stage}_all_open"]
        all_closed, variance = values[f"{stage}_all_closed"], values.get(f"{stage}_variance")
        if all_open > _MOSTLY:
            found.append(f"{stage}: the mask is open everywhere for {all_open:.0%} of the samples; it hides nothing")
        if all_closed > _SOME:
            found.append(
                f"{stage}: the mask is closed everywhere for {all_closed:.0%} of the samples; "
                "the classifier sees nothing of them at this stage"
            )
        # active * (1 - active) is the variance over samples and positions together.
        total = active * (1 - active)
        if variance is not None and total > 0 and variance < _SAME * total:
            found.append(f"{stage}: the mask is the same for every sample; it ignores the image")
    return found


def hides_nothing(values: Mapping[str, float]) -> bool:
    """Whether there are masks and each of them is open everywhere for most samples; ``values`` as of `warnings`."""
    stages = _stages(values)
    return bool(stages) and all(values[f"{stage}_all_open"] > _MOSTLY for stage in stages)


def summary(values: Mapping[str, float]) -> str:
    """One line for a person: active share, variance between samples and share inside the object, by stage."""
    parts = []
    for stage in _stages(values):
        words = [f"{stage} {values[f'{stage}_active']:.0%} active"]
        if (variance := values.get(f"{stage}_variance")) is not None:
            words.append(f"variance {variance:.3f}")
        if (inside := values.get(f"{stage}_inside")) is not None:
            words.append(f"{inside:.0%} inside the object")
        parts.append(", ".join(words))
    return "; ".join(parts)


def _stages(values: Mapping[str, float]) -> list[str]:
    return [key.removesuffix("_active") for key in values if key.endswith("_active")]
