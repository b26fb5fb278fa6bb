import math

import pytest
import torch
from torch import nn

from aimbench.errors import ConfigError
from aimbench.models.backbones import create_pyramid
from aimbench.models.classifier import Classifier, LinearHead
from aimbench.train.config import TrainConfig
from aimbench.train.optim import last_stage, make_optimizer, set_learning_rate, set_train_mode, set_trainable


def classifier(backbone: str = "test_resnet.r160_in1k") -> Classifier:
    pyramid = create_pyramid(backbone)
    return Classifier(pyramid, LinearHead(pyramid, 3))


def rates(steps: int, per_epoch: int, **settings: object) -> list[float]:
    config = TrainConfig(**settings)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "base_lr": config.lr}], lr=1.0)
    found = []
    for step in range(steps):
        set_learning_rate(optimizer, config, step, steps, per_epoch)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_cosine_by_hand() -> None:
    # 0.5 (1 + cos(pi step / 4)): 1, (1 + 1/sqrt 2) / 2, 1/2, (1 - 1/sqrt 2) / 2
    expected = [1.0, 0.5 + 0.5 / math.sqrt(2), 0.5, 0.5 - 0.5 / math.sqrt(2)]
    assert rates(4, 2, lr=0.1) == pytest.approx([0.1 * e for e in expected])


def test_steps_halve_the_rate_after_each_quarter() -> None:
    quarters = [0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125]
    assert rates(8, 2, lr=0.1, schedule="step") == pytest.approx(quarters)


def test_warm_up_rises_linearly_and_then_cosine_starts_at_its_top() -> None:
    assert rates(8, 2, lr=0.1, warmup_epochs=2)[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert rates(6, 4, lr=0.1, warmup_epochs=0.5, schedule="constant") == pytest.approx([0.05] + [0.1] * 5)


def test_groups_of_the_optimizer() -> None:
    model = classifier()
    model.head.extra = nn.Linear(4, 4)
    set_trainable(model, "all")
    config = TrainConfig(lr=0.1, backbone_lr=0.01, weight_decay=0.5)
    optimizer = make_optimizer(model, config, {"extra": 0.2})
    found = {id(p): (g["base_lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        rate = 0.01 if name.startswith("pyramid.") else 0.02 if name.startswith("head.extra") else 0.1
        decay = 0.0 if parameter.dim() <= 1 else 0.5
        assert found[id(parameter)] == pytest.approx((rate, decay)), name


def moved(steps: int, **settings: object) -> torch.Tensor:
    """The head's weight, 1 at first, after ``steps`` whose gradient is 1 in the first and then 0."""
    model = classifier()
    set_trainable(model, "head")
    layer = model.head.classifier
    nn.init.ones_(layer.weight)  # type: ignore[union-attr,arg-type]
    optimizer = make_optimizer(model, TrainConfig(lr=0.1, **settings), {})  # type: ignore[arg-type]
    for step in range(steps):
        layer.weight.grad = torch.full_like(layer.weight, float(step == 0))  # type: ignore[union-attr,arg-type]
        optimizer.step()
    weight: torch.Tensor = layer.weight.detach()  # type: ignore[union-attr,assignment]
    return weight


def test_sgd_has_momentum_and_adamw_decays_apart_from_the_gradient() -> None:
    sgd = moved(2, optimizer="sgd", weight_decay=0.0)  # by 0.1, then by 0.9 of that
    torch.testing.assert_close(sgd, torch.full_like(sgd, 1 - 0.1 - 0.09))
    adamw = moved(1, optimizer="adamw", weight_decay=0.5)  # 1 - 0.1 * 0.5, then the unit step of Adam's first
    torch.testing.assert_close(adamw, torch.full_like(adamw, 0.95 - 0.1))
    torch.testing.assert_close(moved(1, weight_decay=0.5), adamw)  # the default


def test_a_frozen_backbone_is_not_in_the_optimizer() -> None:
    model = classifier()
    set_trainable(model, "head")
    optimizer = make_optimizer(model, TrainConfig(), {})
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in model.head.parameters()}


@pytest.mark.parametrize(
    "backbone",
    ["test_resnet.r160_in1k", "test_convnext.r160_in1k", "test_efficientnet.r160_in1k", "test_vit.r160_in1k"],
)
def test_last_trains_what_makes_the_final_map_and_nothing_before(backbone: str) -> None:
    model = classifier(backbone)
    set_trainable(model, "last")
    model.eval()
    image = torch.randn(2, 3, 160, 160)
    features = model.features(image)
    if not model.pyramid.is_token_grid:  # a plain ViT's final norm is shared by all four maps
        assert [feature.requires_grad for feature in features] == [False, False, False, True]
    # The gradient of the prediction reaches every parameter that is to be trained.
    model.predict(features).logits.square().sum().backward()
    trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert any(n.startswith("pyramid.") for n in trained)
    assert [n for n, grad in trained.items() if grad is None] == []
    assert [n for n, p in model.named_parameters() if not p.requires_grad and p.grad is not None] == []


def test_the_last_quarter_of_a_plain_vits_blocks_is_its_last_stage() -> None:
    pyramid = create_pyramid("vit_tiny_patch16_224")
    blocks = list(pyramid.network.blocks)  # type: ignore[arg-type]
    assert len(blocks) == 12
    assert [module for module in last_stage(pyramid) if module in blocks] == blocks[9:]


@pytest.mark.parametrize("backbone", ["regnety_002", "densenet121"])
def test_a_last_stage_that_timm_does_not_name_is_refused(backbone: str) -> None:
    with pytest.raises(ConfigError, match="--train last is not known for backbone"):
        last_stage(create_pyramid(backbone))


def test_batch_norms_of_a_frozen_backbone_keep_their_statistics() -> None:
    model = classifier()
    set_trainable(model, "head")
    set_train_mode(model)
    norms = [m for m in model.pyramid.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]  # type: ignore[union-attr]
    model.features(torch.randn(4, 3, 64, 64))
    assert norms
    assert model.head.training
    assert all(torch.equal(b, n.running_mean) for b, n in zip(before, norms, strict=True))  # type: ignore[arg-type]
    set_trainable(model, "all")
    set_train_mode(model)
    model.features(torch.randn(4, 3, 64, 64))
    assert not any(torch.equal(b, n.running_mean) for b, n in zip(before, norms, strict=True))  # type: ignore[arg-type]


def test_batch_norms_before_the_last_stage_keep_their_statistics() -> None:
    model = classifier()
    set_trainable(model, "last")
    set_train_mode(model)
    norms = {n: m for n, m in model.pyramid.named_modules() if isinstance(m, nn.BatchNorm2d)}
    before = {name: norm.running_mean.clone() for name, norm in norms.items()}  # type: ignore[union-attr]
    model.features(torch.randn(4, 3, 64, 64))
    moved = {name for name, norm in norms.items() if not torch.equal(before[name], norm.running_mean)}  # type: ignore[arg-type]
    assert moved == {name for name in norms if "layer4" in name}
    assert 0 < len(moved) < len(norms)
