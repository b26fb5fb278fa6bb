"""Counts parameters and multiply-accumulates of every listed backbone, plain and with AIM's head; writes backbones.md.

Nothing is computed: the networks are built without storage, so it takes seconds and no weights.

    python benchmarks/backbones.py
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from aimbench.methods.aim.config import AIMConfig
from aimbench.methods.aim.model import AIMHead
from aimbench.models.backbones import FeaturePyramid, create_pyramid
from aimbench.models.catalogue import BACKBONES
from aimbench.models.classifier import Classifier, Head, LinearHead
from aimbench.train.cost import gmacs

CLASSES = 200
SIDE = 224
STOP_STAGES = (3, 2, 1)

INTRODUCTION = f"""# What AIM costs on each backbone

Written by `python benchmarks/backbones.py`: parameters and multiply-accumulates (GMACs) of one image of {SIDE} px,
{CLASSES} classes. The first two columns are the ordinary network with its classifier. The others are what AIM's head
has more than that classifier: T3, T3..T2 and T3..T1 at the default widths (256 and 64). GMACs of a head are given
twice: *maps* computes every stage's top-down map T_l, as the paper draws it; *means* is what the code does
(`masked_mean`: both convolutions are linear, so the mean over positions is taken before them). Values are the same
either way.

The paper states 1.9 to 3.7 M parameters and 0.1 to 1.0 GFLOPs for ConvNeXt-T.
"""


class MapHead(AIMHead):
    """AIM's head with every top-down map computed, to count what the shortcut saves."""

    def _fuses_means(self, features: list[Tensor]) -> bool:
        return False


class Cost(NamedTuple):
    """Parameters in millions and multiply-accumulates in 1e9."""

    parameters: float
    gmacs: float

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.parameters - other.parameters, self.gmacs - other.gmacs)


def cost(pyramid: FeaturePyramid, head: Head) -> Cost:
    model = Classifier(pyramid, head)
    return Cost(sum(p.numel() for p in model.parameters()) / 1e6, gmacs(model, SIDE))


def row(name: str) -> str:
    with torch.device("meta"):
        pyramid = create_pyramid(name)
        plain = cost(pyramid, LinearHead(pyramid, CLASSES))
        cells = [name, f"{plain.parameters:.2f}", f"{plain.gmacs:.2f}"]
        for stage in STOP_STAGES:
            config = AIMConfig(stop_stage=stage)
            maps = cost(pyramid, MapHead(pyramid, CLASSES, config, standardize=False)) - plain
            means = cost(pyramid, AIMHead(pyramid, CLASSES, config, standardize=False)) - plain
            cells += [f"{maps.parameters:+.2f}", f"{maps.gmacs:+.3f}", f"{means.gmacs:+.3f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    titles = ["backbone", "M parameters", "GMACs"]
    for stage in STOP_STAGES:
        name = f"AIM[{stage}]"
        titles += [f"{name} M parameters", "GMACs, maps", "GMACs, means"]
    lines = ["| " + " | ".join(titles) + " |", "|---" + "|---:" * (len(titles) - 1) + "|"]
    lines += [row(entry.name) for entry in BACKBONES]
    text = INTRODUCTION + "\n" + "\n".join(lines) + "\n"
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
