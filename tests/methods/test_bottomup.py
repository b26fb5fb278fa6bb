"""Bottom-up masking against the network's own stages, written out."""

import pytest
import torch
from torch import Tensor, nn

from aimbench.data.batch import Batch
from aimbench.errors import ConfigError
from aimbench.methods.aim.config import MaskingConfig
from aimbench.methods.aim.method import AIM
from aimbench.methods.bottomup.config import BottomUpConfig
from aimbench.methods.bottomup.method import PRESETS, BottomUp
from aimbench.methods.bottomup.model import BottomUpHead
from aimbench.metrics.attribution import single_pass_attributions
from aimbench.models.backbones import FeaturePyramid, create_pyramid
from aimbench.models.classifier import Classifier
from aimbench.train.api import Progress
from aimbench.train.optim import set_train_mode, set_trainable

NETWORKS = ["test_convnext.r160_in1k", "test_resnet.r160_in1k", "test_efficientnet.r160_in1k"]


@pytest.fixture(scope="module")
def pyramid() -> FeaturePyramid:
    return create_pyramid("test_convnext.r160_in1k")


def images(samples: int = 2) -> Tensor:
    return torch.randn(samples, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def half_open(model: Classifier, image: Tensor) -> Classifier:
    """Moves the mask logits, which start open, so that about half of each mask is open: stage by stage."""
    model.eval()
    for name, unit in model.head.units.items():
        nn.init.normal_(unit.estimator.logit.weight)
        with torch.no_grad():
            logits = torch.logit(model.predict(model.features(image)).mask_probabilities[name].double())
        nn.init.constant_(unit.estimator.logit.bias, unit.estimator.logit.bias.item() - logits.median().item() - 1e-4)
    return model


@pytest.mark.parametrize("name", [*NETWORKS, pytest.param("tf_efficientnet_lite0", marks=pytest.mark.slow)])
def test_stages_run_one_by_one_give_the_whole_network(name: str) -> None:
    torch.manual_seed(0)
    pyramid = create_pyramid(name).eval()
    with torch.no_grad():
        whole = pyramid(images())
        feature = whole[0]
        for stage in range(3):
            feature = pyramid.advance(feature, stage)
            torch.testing.assert_close(feature, whole[stage + 1])
        for last in range(3):
            assert [entry.shape for entry in pyramid(images(), (last,))] == [e.shape for e in whole[: last + 1]]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("stop_stage", [1, 3])
def test_with_every_mask_open_it_is_the_ordinary_network(name: str, stop_stage: int) -> None:
    torch.manual_seed(0)
    pyramid = create_pyramid(name)
    head = BottomUpHead(pyramid, 5, BottomUpConfig(stop_stage=stop_stage), standardize=False)
    model = Classifier(pyramid, head).eval()
    network = pyramid.network
    with torch.no_grad():
        output = model.predict(model.features(images()))
        embedding = network.forward_head(network.forward_features(images()), pre_logits=True)
    assert all(mask.all() for mask in output.masks.values())
    torch.testing.assert_close(output.logits, head.classifier(embedding), rtol=1e-4, atol=1e-5)


def test_masked_features_go_forward_into_the_next_stage(pyramid: FeaturePyramid) -> None:
    torch.manual_seed(0)
    head = BottomUpHead(pyramid, 5, BottomUpConfig(stop_stage=1, mask_width=8), standardize=False)
    model = half_open(Classifier(pyramid, head), images())
    network = pyramid.network
    with torch.no_grad():
        output = model.predict(model.features(images()))
        feature = network.stages[0](network.stem(images()))
        for index in (1, 2, 3):
            feature = network.stages[index](feature)
            binary = (head.units[f"stage{index}"].estimator(feature) > 0).float()
            assert 0 < binary.mean() < 1
            assert torch.equal(output.masks[f"stage{index}"], binary)
            feature = feature * binary
        expected = head.classifier(network.forward_head(feature, pre_logits=True))
    torch.testing.assert_close(output.logits, expected)
    assert list(output.masks) == ["stage3", "stage2", "stage1"]


def test_masked_positions_change_what_later_stages_see(pyramid: FeaturePyramid) -> None:
    """Unlike AIM's, these masks are inside the network: S2 differs from the plain network's."""
    torch.manual_seed(0)
    head = BottomUpHead(pyramid, 5, BottomUpConfig(stop_stage=1, mask_width=8), standardize=False)
    model = half_open(Classifier(pyramid, head), images())
    with torch.no_grad():
        plain = pyramid(images())[3]
        masked = model.predict(model.features(images())).last_map
    kept = model.predict(model.features(images())).masks["stage3"].expand_as(plain) > 0
    assert not torch.allclose(plain[kept], masked[kept])


def test_frozen_backbone_stays_and_its_mask_units_learn(pyramid: FeaturePyramid) -> None:
    """From the cached map of the first masked stage, without images."""
    torch.manual_seed(0)
    pyramid = create_pyramid("test_resnet.r160_in1k")  # batch norm: its statistics must stay too
    method = BottomUp(BottomUpConfig(anneal=False, mask_width=8))
    model = Classifier(pyramid, method.build(pyramid, 5, frozen=True))
    set_trainable(model, "head")
    set_train_mode(model)
    assert model.head.stages == (1,)
    with torch.no_grad():
        cached = [*[torch.empty(0)], pyramid(images(4))[1]]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        batch = Batch(torch.arange(4), torch.tensor([0, 1, 2, 3]), features=cached)
        loss = method.loss(model, batch, Progress(1, 2, step, 2))["loss"]
        assert torch.isfinite(loss)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert not any(name.startswith("pyramid.") for name in changed)
    for stage in (1, 2, 3):
        assert f"head.units.stage{stage}.estimator.stem.0.weight" in changed


def test_gradcam_reads_the_masked_last_map(pyramid: FeaturePyramid) -> None:
    torch.manual_seed(0)
    head = BottomUpHead(pyramid, 5, BottomUpConfig(stop_stage=1, mask_width=8), standardize=False)
    model = half_open(Classifier(pyramid, head), images())
    maps, output = single_pass_attributions(model, images(), torch.tensor([0, 1]))
    assert maps["gradcam"].shape == (2, 2, 2)
    assert maps["input_x_gradient"].shape == (2, 64, 64)
    closed = output.masks["stage3"][:, 0] == 0
    assert closed.any()
    assert maps["gradcam"][closed].abs().max() == 0


def test_a_backbone_without_stages_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"stages of backbone 'test_vit\.r160_in1k' cannot be run one by one"):
        BottomUp(BottomUpConfig()).build(create_pyramid("test_vit.r160_in1k"), 5, frozen=False)


def test_presets_are_aims_names() -> None:
    config = BottomUp.configure({}, preset="2-35-flat")
    assert (config.stop_stage, config.active_area, config.anneal) == (2, 0.35, False)  # type: ignore[attr-defined]
    assert all(BottomUp.configure({}, preset=name) for name in PRESETS)
    for name in PRESETS:  # the ablation changes the direction alone, not AIM's objective or its schedule
        ours, aims = BottomUp.configure({}, preset=name).model_dump(), AIM.configure({}, preset=name).model_dump()
        shared = set(MaskingConfig.model_fields)
        assert {key: ours[key] for key in shared} == {key: aims[key] for key in shared}
