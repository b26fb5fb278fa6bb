"""AIM and ERM train on every family of backbones; what AIM adds to ConvNeXt-T is what the paper states."""

import math
from contextlib import nullcontext

import pytest
import torch

from aimbench.data.batch import Batch
from aimbench.errors import ConfigError
from aimbench.methods.aim.config import AIMConfig
from aimbench.methods.aim.method import AIM
from aimbench.methods.aim.model import AIMHead
from aimbench.models.backbones import create_pyramid
from aimbench.models.classifier import Classifier, LinearHead
from aimbench.train.api import Progress
from aimbench.train.cost import gmacs
from aimbench.train.registry import get_method

SLOW = pytest.mark.slow
# With the side of the image: plain ViTs and Swin take 224 px only.
NETWORKS = [
    ("convnext_tiny", 64),
    ("resnet50", 64),
    ("tf_efficientnet_lite0", 64),
    ("deit_tiny_patch16_224", 224),
    pytest.param("resnet101", 64, marks=SLOW),
    pytest.param("deit_small_patch16_224", 224, marks=SLOW),
    pytest.param("swin_tiny_patch4_window7_224", 224, marks=SLOW),
]


@pytest.mark.parametrize("method", ["aim", "erm"])
@pytest.mark.parametrize(("name", "side"), NETWORKS)
def test_two_steps_train_backbone_head_and_masks(name: str, side: int, method: str) -> None:
    torch.manual_seed(0)
    pyramid = create_pyramid(name)
    cls = get_method(method)
    trained = cls(cls.configure({"stop_stage": 2} if method == "aim" else {}))
    head = trained.build(pyramid, 5, frozen=False)
    model = Classifier(pyramid, head).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    batch = Batch(torch.arange(4), torch.tensor([0, 1, 2, 3]), image=torch.randn(4, 3, side, side))
    first = {key: value.detach().clone() for key, value in model.named_parameters()}
    for step in range(2):
        result = trained.loss(model, batch, Progress(1, 2, step, 2))
        loss = result if isinstance(result, torch.Tensor) else result["loss"]
        assert math.isfinite(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    learnt = {key for key, value in model.named_parameters() if not torch.equal(value, first[key])}
    assert any(key.startswith("pyramid.") for key in learnt)
    if method == "aim":
        for stage in ("stage3", "stage2"):
            estimator = {key for key, _ in model.named_parameters() if key.startswith(f"head.topdown.{stage}.mask.")}
            assert {key for key in estimator if key.endswith("weight")} <= learnt, "the mask estimator does not learn"
        output = model(batch)
        for stage, stride in (("stage3", 32), ("stage2", 16)):
            assert output.masks[stage].shape == (4, 1, side // stride, side // stride)


def test_reading_few_entries_of_a_vit_changes_none_of_them() -> None:
    torch.manual_seed(0)
    pyramid = create_pyramid("test_vit.r160_in1k").eval()
    image = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        whole, some, tokens = pyramid(image), pyramid(image, (1, 3)), pyramid(image, (4,))
    assert [entry.numel() > 0 for entry in some] == [False, True, False, True, True]
    for index in (1, 3, 4):
        torch.testing.assert_close(some[index], whole[index], rtol=0, atol=0)
    assert [entry.numel() > 0 for entry in tokens] == [False, False, False, False, True]
    torch.testing.assert_close(tokens[4], whole[4], rtol=0, atol=0)


def test_multiply_accumulates_of_networks_are_the_published_ones() -> None:
    """From the papers' tables, with attention and 1000 classes."""
    for name, published in (("convnext_tiny", 4.5), ("resnet50", 4.1), ("deit_small_patch16_224", 4.6)):
        with torch.device("meta"):
            pyramid = create_pyramid(name)
            model = Classifier(pyramid, LinearHead(pyramid, 1000))
        assert gmacs(model, 224) == pytest.approx(published, abs=0.05)


@pytest.mark.parametrize(("stop_stage", "million", "maps"), [(2, 2.7, 0.29), (1, 3.7, 1.05)])
def test_what_aim_adds_to_convnext_tiny(
    stop_stage: int, million: float, maps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The method's specification gives about 2.7M and 0.29 GMACs for T3+T2, 3.7M and 1.05 down to T1."""
    with torch.device("meta"):
        pyramid = create_pyramid("convnext_tiny")
        head = AIMHead(pyramid, 200, AIMConfig(stop_stage=stop_stage), standardize=False)
        backbone = gmacs(Classifier(pyramid, LinearHead(pyramid, 1)), 224)
        shortcut = gmacs(Classifier(pyramid, head), 224) - backbone
        monkeypatch.setattr(head, "_fuses_means", lambda features: False)
        whole = gmacs(Classifier(pyramid, head), 224) - backbone
    assert sum(p.numel() for p in head.parameters()) / 1e6 == pytest.approx(million, abs=0.1)
    assert whole == pytest.approx(maps, abs=0.02)
    assert shortcut < whole / 2


def test_a_vits_masks_reach_the_picture_at_its_own_resolution() -> None:
    """T3 and T2 of a ViT are 7x7 and 14x14 at 224 px, as of any other backbone, and so is the explanation."""
    pyramid = create_pyramid("deit_tiny_patch16_224").eval()
    method = AIM(AIMConfig(stop_stage=2))
    model = Classifier(pyramid, method.build(pyramid, 5, frozen=True)).eval()
    with torch.no_grad():
        output = model.predict(model.features(torch.randn(1, 3, 224, 224)))
    explanation = method.explain(output)
    assert explanation is not None
    assert explanation.shape == (1, 14, 14)


def test_masks_that_are_not_learned_read_no_energy_of_a_vit() -> None:
    pyramid = create_pyramid("deit_tiny_patch16_224")
    for masks, refused in (("learned", True), ("open", False)):
        method = AIM(AIMConfig(objectness=1.0, masks=masks))  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="set objectness=0") if refused else nullcontext():
            method.build(pyramid, 5, frozen=True)
