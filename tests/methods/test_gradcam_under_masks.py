"""GradCAM reads the map that a method's classifier pools, so a closed position gets nothing."""

import pytest
import torch
from torch import Tensor, nn

from aimbench.methods.aim.presets import ENERGY
from aimbench.metrics.attribution import single_pass_attributions
from aimbench.models.backbones import create_pyramid
from aimbench.models.classifier import Classifier
from aimbench.train.attributions import ClassifierView
from aimbench.train.registry import get_method


def classifier(name: str, settings: dict[str, object]) -> Classifier:
    torch.manual_seed(0)
    pyramid = create_pyramid("test_convnext.r160_in1k")
    method = get_method(name)
    return Classifier(pyramid, method(method.configure(settings)).build(pyramid, 3, frozen=False)).eval()


def images() -> Tensor:
    return torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))


def half_open(model: Classifier) -> None:
    """Moves the logits of stage 3's mask, which starts open, so that about half of the positions are open."""
    estimator = model.head.topdown["stage3"].mask
    nn.init.normal_(estimator.logit.weight)
    with torch.no_grad():
        logits = torch.logit(model.predict(model.features(images())).mask_probabilities["stage3"].double())
    nn.init.constant_(estimator.logit.bias, estimator.logit.bias.item() - logits.median().item() - 1e-4)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("aim", {}),
        ("aim", {"stop_stage": 2, "predict_from": "coarsest"}),
        ("aim", {"features": "both"}),
        ("aim_plus", {}),
        ("aim_plus", dict(ENERGY)),
        ("scda", {}),
    ],
)
def test_no_energy_where_the_mask_is_closed(name: str, settings: dict[str, object]) -> None:
    model = classifier(name, settings)
    if name != "scda":
        half_open(model)
    maps, output = single_pass_attributions(ClassifierView(model, None), images(), torch.tensor([0, 1]))
    closed = output.masks["stage3"][:, 0] == 0
    assert 0 < closed.float().mean() < 1
    assert maps["gradcam"].shape == closed.shape
    assert maps["gradcam"][closed].abs().max() == 0
    assert maps["gradcam"].sum() > 0


def test_fused_map_is_read_at_its_own_resolution() -> None:
    maps, output = single_pass_attributions(
        ClassifierView(classifier("aim", {"stop_stage": 1}), None), images(), torch.tensor([0, 1])
    )
    assert maps["gradcam"].shape[-2:] == output.masks["stage1"].shape[-2:] == (16, 16)


def test_the_oracle_sees_nothing_outside_its_mask() -> None:
    mask = torch.zeros(2, 1, 128, 128)
    mask[:, :, :64, :64] = 1
    maps, _ = single_pass_attributions(
        ClassifierView(classifier("oracle_mask", {}), mask), images(), torch.tensor([0, 1])
    )
    assert maps["gradcam"][:, :2, :2].sum() > 0
    assert maps["gradcam"][:, 2:].abs().max() == 0
    assert maps["gradcam"][:, :, 2:].abs().max() == 0
