"""AIM's pieces against hand-computed cases and independent computation."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aimbench.errors import ConfigError
from aimbench.methods.aim.branches import energy
from aimbench.methods.aim.config import AIMConfig
from aimbench.methods.aim.gumbel import binary_gumbel, decided
from aimbench.methods.aim.loss import aim_loss, area_loss, is_noisy, target_area, temperature
from aimbench.methods.aim.method import AIM, TopDownConfig
from aimbench.methods.aim.model import AIMHead, MaskEstimator, TopDownStage
from aimbench.methods.aim.presets import PRESETS
from aimbench.models.backbones import FeaturePyramid, create_pyramid
from aimbench.models.classifier import LinearHead
from aimbench.train.api import Batch, Classifier, Output, Progress, Standardize
from aimbench.train.registry import get_method


def epoch(number: int, epochs: int) -> Progress:
    return Progress(epoch=number, epochs=epochs, step=0, steps=1)


@pytest.fixture(scope="module")
def pyramid() -> FeaturePyramid:
    return create_pyramid("test_convnext.r160_in1k")


def features_of(pyramid: FeaturePyramid, sides: tuple[int, ...], samples: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(samples, c, s, s, generator=generator) for c, s in zip(pyramid.channels, sides, strict=True)]


def half_open(head: AIMHead, features: list[Tensor]) -> AIMHead:
    """Moves the mask logits of a new head, which start open, so that about half of the positions are open."""
    head.eval()
    for name, stage in head.topdown.items():
        nn.init.normal_(stage.mask.logit.weight)
        logits = torch.logit(head(features).mask_probabilities[name].double())
        nn.init.constant_(stage.mask.logit.bias, stage.mask.logit.bias.item() - logits.median().item() - 1e-4)
    return head


# The decision


def test_decision_without_noise_opens_positive_logits() -> None:
    logits = torch.tensor([-2.0, -1e-3, 0.0, 1e-3, 2.0])
    assert decided(logits).tolist() == [0, 0, 0, 1, 1]
    assert binary_gumbel(logits, 1.0, noise=False).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.0])
def test_sampled_decision_is_open_with_the_sigmoids_probability(logit: float, temperature: float) -> None:
    torch.manual_seed(0)
    draws = binary_gumbel(torch.full((100_000,), logit), temperature)
    probability = 1 / (1 + math.exp(-logit))
    assert draws.mean().item() == pytest.approx(probability, abs=5 * math.sqrt(probability * (1 - probability) / 1e5))


def test_sampled_decision_is_exactly_zero_or_one() -> None:
    torch.manual_seed(0)
    assert binary_gumbel(torch.zeros(10_000), 1.0).unique().tolist() == [0, 1]


def test_half_precision_draws_as_often_as_single() -> None:
    torch.manual_seed(0)
    draws = [binary_gumbel(torch.full((1_000_000,), logit, dtype=torch.bfloat16), 1.0) for logit in (-6.0, 6.0)]
    assert {draw.dtype for draw in draws} == {torch.bfloat16}
    rare = 1 / (1 + math.exp(6))  # 0.0025, with a standard error of 5e-5
    assert draws[0].float().mean().item() == pytest.approx(rare, abs=3e-4)
    assert (1 - draws[1].float()).mean().item() == pytest.approx(rare, abs=3e-4)


@pytest.mark.parametrize("noise", [True, False])
def test_half_precision_has_the_gradient_of_single(noise: bool) -> None:
    """A position with a logit of 8 closes slowly, but it can: in half precision its sigmoid is exactly 1."""
    gradients = []
    for dtype in (torch.bfloat16, torch.float32):
        torch.manual_seed(0)
        logits = torch.tensor([-8.0, 0.0, 8.0], dtype=dtype, requires_grad=True)
        gradients += torch.autograd.grad(binary_gumbel(logits, 1.0, noise=noise).sum(), logits)
    torch.testing.assert_close(gradients[0].float(), gradients[1], rtol=0.01, atol=0)
    assert gradients[0].min() > 0


def test_gradient_of_a_sampled_decision_is_the_soft_ones() -> None:
    logits = torch.linspace(-3, 3, 50, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    (gradient,) = torch.autograd.grad(binary_gumbel(logits, 0.7).sum(), logits)
    torch.manual_seed(3)
    uniform = torch.rand_like(logits)
    soft = torch.sigmoid((logits + uniform.log() - (1 - uniform).log()) / 0.7)
    torch.testing.assert_close(gradient, soft * (1 - soft) / 0.7)
    (gradient,) = torch.autograd.grad(binary_gumbel(logits, 0.7, noise=False).sum(), logits)
    soft = torch.sigmoid(logits / 0.7)
    torch.testing.assert_close(gradient, soft * (1 - soft) / 0.7)


# Schedules and loss


def test_target_area_falls_linearly_epoch_by_epoch_and_then_holds() -> None:
    config = AIMConfig(active_area=0.2, anneal_fraction=0.5)
    targets = [target_area(config, epoch(number, 8)) for number in range(8)]
    assert targets == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2, 0.2])
    flat = AIMConfig(active_area=0.2, anneal=False)
    assert [target_area(flat, epoch(number, 8)) for number in (0, 7)] == [0.2, 0.2]


def test_target_area_of_a_very_short_training() -> None:
    assert target_area(AIMConfig(active_area=0.2), epoch(0, 1)) == 1.0
    assert target_area(AIMConfig(active_area=0.2), epoch(1, 2)) == pytest.approx(0.2)


@pytest.mark.parametrize("fraction", [0.9, 1.0])
def test_the_last_epoch_has_the_target_area(fraction: float) -> None:
    config = AIMConfig(active_area=0.2, anneal_fraction=fraction)
    assert target_area(config, epoch(4, 5)) == pytest.approx(0.2)
    assert target_area(config, epoch(3, 5)) == pytest.approx(0.4)


def test_temperature_is_constant_or_linear_in_steps() -> None:
    steps = [Progress(epoch=0, epochs=1, step=step, steps=5) for step in range(5)]
    assert [temperature(AIMConfig(temperature=2), at) for at in steps] == [2] * 5
    cooling = AIMConfig(temperature=2, final_temperature=1)
    assert [temperature(cooling, at) for at in steps] == pytest.approx([2, 1.75, 1.5, 1.25, 1])


def test_area_loss_of_batch_and_of_images() -> None:
    # Two images, one fully open and one closed, and a stage with a quarter open in both.
    first = torch.stack([torch.ones(1, 2, 2), torch.zeros(1, 2, 2)])
    quarter = torch.tensor([1.0, 0, 0, 0]).reshape(1, 1, 2, 2).repeat(2, 1, 1, 1)
    masks = {"stage3": first, "stage2": quarter}
    # Batch: (0.5 - 0.4)^2 + (0.25 - 0.4)^2. Image: mean of (1 - 0.4)^2 and 0.4^2, and again (0.25 - 0.4)^2.
    assert area_loss(masks, 0.4, "batch").item() == pytest.approx(0.01 + 0.0225)
    assert area_loss(masks, 0.4, "image").item() == pytest.approx((0.36 + 0.16) / 2 + 0.0225)


def test_loss_sums_cross_entropies_and_adds_the_weighted_area() -> None:
    label = torch.tensor([0, 1])
    logits = {"stage3": torch.zeros(2, 2), "fused": torch.tensor([[0.0, 1.0], [0.0, 1.0]])}
    output = Output(logits["fused"], stage_logits=logits, masks={"stage3": torch.ones(2, 1, 2, 2)})
    values = aim_loss(output, label, AIMConfig(active_area=0.25, anneal=False, area_weight=6), epoch(0, 4))
    cross_entropy = math.log(2) + (math.log(1 + math.e) + math.log(1 + math.exp(-1))) / 2
    assert values["ce"].item() == pytest.approx(cross_entropy)
    assert values["loss"].item() == pytest.approx(cross_entropy + 6 * 0.75**2)
    assert values["stage3 active"].item() == 1


def test_epochs_with_a_falling_target_are_no_candidates() -> None:
    class Run:
        class config:
            epochs = 7

    def first_candidate(**settings: object) -> int:
        (phase,) = AIM(AIMConfig(**settings)).phases(Run())  # type: ignore[arg-type]
        return phase.candidates_from

    assert first_candidate(anneal_fraction=0.5) == 4  # epochs 0..3 aim at more than the active area
    assert first_candidate(anneal_fraction=0.25) == 2
    assert first_candidate(anneal_fraction=0.25, noise_until=0.5) == 4  # epochs 0..3 draw their masks
    assert [is_noisy(AIMConfig(noise_until=0.5), epoch(number, 7)) for number in (3, 4)] == [True, False]
    assert target_area(AIMConfig(active_area=0.25, anneal_fraction=0.5), epoch(3, 7)) > 0.25
    assert target_area(AIMConfig(active_area=0.25, anneal_fraction=0.5), epoch(4, 7)) == pytest.approx(0.25)
    assert first_candidate(anneal=False, noise_until=0.5) == 4
    assert first_candidate(anneal=False, noise_until=1.0) == 0  # drawn to the end: no epoch differs from another
    assert first_candidate(masks="open") == 0


@pytest.mark.parametrize(("share", "epochs", "first"), [(0.28, 25, 7), (0.07, 100, 7), (0.29, 25, 8)])
def test_a_share_that_is_a_whole_number_of_epochs_is_that_number(share: float, epochs: int, first: int) -> None:
    """0.28 * 25 is a little more than 7, which would make an eighth epoch of it."""

    class Run:
        class config:
            pass

    Run.config.epochs = epochs  # type: ignore[attr-defined]
    config = AIMConfig(anneal=False, noise_until=share)
    (phase,) = AIM(config).phases(Run())  # type: ignore[arg-type]
    assert phase.candidates_from == first
    assert [is_noisy(config, epoch(number, epochs)) for number in (first - 1, first)] == [True, False]


# The network


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", [1, 2, 7])
def test_masked_mean_is_the_mean_of_the_masked_map(bias: bool, side: int) -> None:
    torch.manual_seed(0)
    stage = TopDownStage(
        5, AIMConfig(width=4, mask_width=3, smooth_start="random"), guided=False, standardize=False
    ).double()
    if not bias:
        stage.branch.lateral.bias = stage.branch.smooth.bias = None
    height, width = side, side + 1  # not square, so that swapped axes show
    feature = torch.randn(3, 5, height, width, dtype=torch.float64, requires_grad=True)
    binary = torch.rand(3, 1, height, width, dtype=torch.float64).round().requires_grad_()
    parameters = [feature, binary, *stage.branch.lateral.parameters(), *stage.branch.smooth.parameters()]
    upstream = torch.randn(3, 4, dtype=torch.float64)

    expected = stage.branch.masked_map(feature, binary).mean(dim=(2, 3))
    result = stage.branch.masked_mean(feature, binary)
    torch.testing.assert_close(result, expected)
    expected_gradients = torch.autograd.grad((expected * upstream).sum(), parameters)
    gradients = torch.autograd.grad((result * upstream).sum(), parameters)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)


def test_the_3x3_convolution_starts_as_the_identity_and_learns_slowly() -> None:
    stage = TopDownStage(5, AIMConfig(width=4, mask_width=3), guided=False, standardize=False)
    feature = torch.randn(2, 5, 7, 6)
    everywhere = torch.ones(2, 1, 7, 6)
    torch.testing.assert_close(stage.branch.masked_map(feature, everywhere), stage.branch.lateral(feature))
    rates = AIM(AIM.configure({"stop_stage": 2})).learning_rates()
    assert [rates[f"topdown.stage{index}.branch.smooth"] for index in (2, 3)] == [0.1, 0.1]

    random = TopDownStage(5, AIMConfig(width=4, mask_width=3, smooth_start="random"), guided=False, standardize=False)
    assert not torch.allclose(random.branch.masked_map(feature, everywhere), random.branch.lateral(feature), atol=1e-3)


@pytest.mark.parametrize("loss_on", ["masked", "fused"])
@pytest.mark.parametrize("pool", ["all", "active"])
@pytest.mark.parametrize("standardize", [True, False])
def test_logits_do_not_depend_on_how_means_are_fused(
    loss_on: str, pool: str, standardize: bool, pyramid: FeaturePyramid, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = AIMConfig(stop_stage=1, width=8, mask_width=4, loss_on=loss_on, pool=pool)  # type: ignore[arg-type]
    features = [f.double() for f in features_of(pyramid, (16, 8, 4, 2))]
    head = half_open(AIMHead(pyramid, 5, config, standardize=standardize).double(), features)
    by_mean, by_map = (_outputs(head, features, monkeypatch, by_mean=choice) for choice in (True, False))
    assert by_mean.stage_logits.keys() == by_map.stage_logits.keys()
    for name, logits in by_map.stage_logits.items():
        torch.testing.assert_close(by_mean.stage_logits[name], logits)
    torch.testing.assert_close(by_mean.logits, by_map.logits)


def _outputs(head: AIMHead, features: list[Tensor], monkeypatch: pytest.MonkeyPatch, *, by_mean: bool) -> Output:
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(head, "_fuses_means", lambda _: by_mean)
        output: Output = head(features)
    shares = [mask.mean().item() for mask in output.masks.values()]
    assert all(0.05 < share < 0.95 for share in shares), "the test needs masks that are partly open"
    return output


@pytest.mark.parametrize("size", [(5, 5), (5, 4), (4, 5)])
def test_sizes_that_do_not_divide_are_fused_as_maps(size: tuple[int, int], pyramid: FeaturePyramid) -> None:
    """Nearest upsampling from 2 to 5 rows or columns repeats them unequally, so a mean would be wrong."""
    torch.manual_seed(0)
    config = AIMConfig(stop_stage=2, width=8, mask_width=4, masks="open", pool="all")
    head = AIMHead(pyramid, 5, config, standardize=False).eval()
    features = features_of(pyramid, (20, 10, 5, 2))
    features[2] = features[2][:, :, : size[0], : size[1]]
    coarse, fine = head.topdown["stage3"], head.topdown["stage2"]
    with torch.no_grad():
        top = coarse.branch.smooth(coarse.branch.lateral(features[3]))
        fused = fine.branch.smooth(fine.branch.lateral(features[2])) + F.interpolate(top, size=size, mode="nearest")
        expected = head.final(fused.mean(dim=(2, 3)))
        torch.testing.assert_close(head(features).logits, expected)


@pytest.mark.parametrize("loss_on", ["masked", "fused"])
def test_one_mask_for_all_channels_zeroes_what_it_closes(loss_on: str, pyramid: FeaturePyramid) -> None:
    """The equations, written out: T = conv3x3(conv1x1(S)), O = T * B, F = O + upsample(F')."""
    torch.manual_seed(0)
    config = AIMConfig(stop_stage=2, width=8, mask_width=4, pool="active", loss_on=loss_on)  # type: ignore[arg-type]
    features = features_of(pyramid, (16, 8, 4, 2))
    head = half_open(AIMHead(pyramid, 5, config, standardize=False), features)
    with torch.no_grad():
        output = head(features)
        masked = {}
        for name, index in (("stage3", 3), ("stage2", 2)):
            stage = head.topdown[name]
            binary = (stage.mask(features[index]) > 0).float()
            assert torch.equal(output.masks[name], binary)
            assert binary.shape == (3, 1, *features[index].shape[-2:])
            masked[name] = stage.branch.smooth(stage.branch.lateral(features[index])) * binary
            if loss_on == "masked" or index == 3:
                pooled = masked[name].sum(dim=(2, 3)) / binary.sum(dim=(2, 3)).clamp(min=1)
                torch.testing.assert_close(output.stage_logits[name], head.classifiers[name](pooled))
        fused = masked["stage2"] + F.interpolate(masked["stage3"], scale_factor=2, mode="nearest")
        reached = torch.maximum(output.masks["stage2"], F.interpolate(output.masks["stage3"], scale_factor=2))
        pooled = fused.sum(dim=(2, 3)) / reached.sum(dim=(2, 3)).clamp(min=1)
        reads_fused = head.final if loss_on == "masked" else head.classifiers["stage2"]
        torch.testing.assert_close(output.logits, reads_fused(pooled))


@pytest.mark.parametrize("pool", ["all", "active"])
def test_a_mask_that_is_closed_everywhere_shows_the_classifier_nothing(pool: str, pyramid: FeaturePyramid) -> None:
    config = AIMConfig(stop_stage=3, width=8, mask_width=4, initial_logit=-50, pool=pool)  # type: ignore[arg-type]
    head = AIMHead(pyramid, 5, config, standardize=False).eval()
    output = head(features_of(pyramid, (16, 8, 4, 2)))
    assert output.masks["stage3"].sum() == 0
    torch.testing.assert_close(output.logits, head.classifiers["stage3"].bias.expand(3, 5))


@pytest.mark.parametrize(
    ("predict_from", "expected"),
    [("finest", lambda s: s["fused"]), ("coarsest", lambda s: s["stage3"]), ("mean", lambda s: sum(s.values()) / 3)],
)
def test_where_the_prediction_comes_from(predict_from: str, expected: object, pyramid: FeaturePyramid) -> None:
    config = AIMConfig(stop_stage=2, width=8, mask_width=4, predict_from=predict_from)  # type: ignore[arg-type]
    output = AIMHead(pyramid, 5, config, standardize=False).eval()(features_of(pyramid, (16, 8, 4, 2)))
    assert list(output.stage_logits) == ["stage3", "stage2", "fused"]
    torch.testing.assert_close(output.logits, expected(output.stage_logits))  # type: ignore[operator]


@pytest.mark.parametrize(("stop_stage", "low", "high"), [(2, 2.5e6, 2.9e6), (1, 3.5e6, 3.9e6)])
def test_parameters_added_to_convnext_tiny_are_the_papers(stop_stage: int, low: float, high: float) -> None:
    head = AIMHead(create_pyramid("convnext_tiny"), 200, AIMConfig(stop_stage=stop_stage), standardize=False)
    assert low < sum(parameter.numel() for parameter in head.parameters()) < high


@pytest.mark.parametrize("standardize", [True, False])
def test_masks_start_open(standardize: bool, pyramid: FeaturePyramid) -> None:
    torch.manual_seed(0)
    head = AIMHead(pyramid, 5, AIMConfig(stop_stage=0), standardize=standardize)
    features = features_of(pyramid, (16, 8, 4, 2))
    shares = [mask.mean().item() for mask in head.train()(features).masks.values()]
    assert len(shares) == 4
    assert min(shares) > 0.8  # sigmoid(3) = 0.95, sampled
    assert all(mask.min() == 1 for mask in head.eval()(features).masks.values())


def test_evaluation_has_no_noise_and_training_has(pyramid: FeaturePyramid) -> None:
    features = features_of(pyramid, (16, 8, 4, 2))
    head = half_open(AIMHead(pyramid, 5, AIMConfig(width=8, mask_width=4), standardize=False), features)
    first, second = head(features), head(features)
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.masks["stage3"], first.mask_probabilities["stage3"] > 0.5)
    assert not first.masks["stage3"].requires_grad, "an attribution would pass through the estimator"
    head.train()
    draws = [head(features).masks["stage3"] for _ in range(8)]
    assert any(not torch.equal(a, b) for a, b in itertools.pairwise(draws))


def test_every_parameter_of_the_head_learns(pyramid: FeaturePyramid) -> None:
    head = AIMHead(pyramid, 5, AIMConfig(stop_stage=1, guided=True, width=8, mask_width=4), standardize=True)
    output = head.train()(features_of(pyramid, (16, 8, 4, 2)))
    aim_loss(output, torch.tensor([0, 1, 2]), AIMConfig(anneal=False), epoch(0, 4))["loss"].backward()
    still = [name for name, parameter in head.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert still == []


def test_guide_informs_the_finer_mask_only_where_asked(pyramid: FeaturePyramid) -> None:
    """A change of S3 alone moves the finer stage's mask logits if, and only if, the masks are guided."""
    features = features_of(pyramid, (16, 8, 4, 2))
    changed = [*features[:3], features[3] + 1]
    for guided in (False, True):
        torch.manual_seed(0)
        config = AIMConfig(stop_stage=2, guided=guided, width=8, mask_width=4)
        head = half_open(AIMHead(pyramid, 5, config, standardize=False), features)
        before, after = (head(f).mask_probabilities["stage2"] for f in (features, changed))
        assert torch.equal(before, after) is not guided


def test_a_finer_mask_does_not_reshape_its_guide(pyramid: FeaturePyramid) -> None:
    features = features_of(pyramid, (16, 8, 4, 2))
    config = AIMConfig(stop_stage=2, guided=True, width=8, mask_width=4)
    head = half_open(AIMHead(pyramid, 5, config, standardize=False), features)
    head(features).mask_probabilities["stage2"].sum().backward()
    assert head.topdown["stage2"].mask.logit.weight.grad is not None
    assert head.topdown["stage3"].branch.lateral.weight.grad is None


def test_control_has_no_masks_and_no_mask_parameters(pyramid: FeaturePyramid) -> None:
    head = AIMHead(pyramid, 5, TopDownConfig(stop_stage=2, width=8), standardize=False)
    output = head(features_of(pyramid, (16, 8, 4, 2)))
    assert output.masks == {}
    assert not any("mask" in name for name, _ in head.named_parameters())
    assert "loss" in aim_loss(output, torch.tensor([0, 1, 2]), TopDownConfig(), epoch(0, 4))
    assert get_method("topdown")(TopDownConfig()).explain(output) is None


def test_under_ground_truth_the_pool_is_weighted_by_the_objects_share(pyramid: FeaturePyramid) -> None:
    torch.manual_seed(0)
    config = TopDownConfig(width=8)
    head = AIMHead(pyramid, 5, config, standardize=False, given=True).eval()
    features = features_of(pyramid, (16, 8, 4, 2))
    mask = torch.zeros(len(features[3]), 1, 16, 16)
    mask[0, :, :8, :8] = 1  # the first of four positions
    mask[1, :, :8, :4] = 1  # half of it, and a quarter of the last
    mask[1, :, 12:, 8:12] = 1
    output = head(features, mask)
    stage = head.topdown["stage3"]
    read = stage.branch.smooth(stage.branch.lateral(features[3]))
    weights = torch.tensor([[1.0, 0, 0, 0], [2 / 3, 0, 0, 1 / 3], [0.25, 0.25, 0.25, 0.25]])
    pooled = torch.einsum("np,ncp->nc", weights, read.flatten(2)[:3])
    torch.testing.assert_close(output.logits[:3], head.classifiers["stage3"](pooled))
    assert output.masks == {}, "ground truth is none of the method's own masks"


def test_ground_truth_and_the_backbones_features_are_the_oracle(pyramid: FeaturePyramid) -> None:
    features = features_of(pyramid, (16, 8, 4, 2))
    mask = (torch.rand(len(features[3]), 1, 16, 16) > 0.5).float()
    ours, oracle = (
        method(method.configure(changes)).build(pyramid, 5, frozen=True).eval()
        for method, changes in ((get_method("aim_oracle"), {"features": "backbone"}), (get_method("oracle_mask"), {}))
    )
    assert ours.reads_mask
    torch.testing.assert_close(ours(features, mask).embedding, oracle(features, mask).embedding)


def test_area_term_alone_drives_the_share_to_its_target(pyramid: FeaturePyramid) -> None:
    torch.manual_seed(0)
    head = AIMHead(pyramid, 2, AIMConfig(width=8, mask_width=8), standardize=True).train()
    features = features_of(pyramid, (32, 16, 8, 4), samples=16)
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for _ in range(80):
        optimiser.zero_grad()
        area_loss(head(features).masks, 0.3, "batch").backward()
        optimiser.step()
    shares = [head(features).masks["stage3"].mean().item() for _ in range(20)]
    assert sum(shares) / len(shares) == pytest.approx(0.3, abs=0.05)


def test_mask_finds_the_position_that_tells_the_class(pyramid: FeaturePyramid) -> None:
    """One position of sixteen tells the class, the others are noise; a quarter may stay open."""
    torch.manual_seed(0)
    config = AIMConfig(width=16, mask_width=8, active_area=0.25)
    head = AIMHead(pyramid, 2, config, standardize=False).train()
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-2)
    sample = torch.arange(64)
    label = sample % 2

    def scene() -> tuple[list[Tensor], Tensor]:
        feature = torch.randn(64, pyramid.channels[3], 16)
        place = torch.randint(16, (64,))
        feature[sample, 0, place] = 4.0  # an object stands here
        feature[sample, 1, place] = 4.0 * (2 * label - 1)  # and tells the class
        return [*[torch.empty(0)] * 3, feature.reshape(64, -1, 4, 4)], place

    steps = 300
    for step in range(steps):
        features, _ = scene()
        optimiser.zero_grad()
        aim_loss(head(features), label, config, Progress(step // 20, steps // 20, step, steps))["loss"].backward()
        optimiser.step()
    features, place = scene()
    mask = head.eval()(features).masks["stage3"].flatten(1)
    assert mask.mean() < 0.35
    assert mask[sample, place].mean() > 0.9


def test_explanation_is_the_mean_of_the_masks_at_the_finest_resolution() -> None:
    coarse = torch.tensor([[1.0, 0], [0, 0]]).reshape(1, 1, 2, 2)
    fine = torch.zeros(1, 1, 4, 4)
    fine[..., 0, 3] = 1
    output = Output(torch.zeros(1, 2), masks={"stage3": coarse, "stage2": fine})
    expected = torch.zeros(1, 4, 4)
    expected[0, :2, :2] = 0.5
    expected[0, 0, 3] = 0.5
    explanation = AIM(AIMConfig()).explain(output)
    assert explanation is not None
    torch.testing.assert_close(explanation, expected)


def test_presets_are_the_papers_names() -> None:
    config = AIM.configure({}, preset="2-25")
    assert (config.stop_stage, config.active_area, config.anneal) == (2, 0.25, True)  # type: ignore[attr-defined]
    flat = AIM.configure({}, preset="1-35-flat")
    assert (flat.stop_stage, flat.active_area, flat.anneal) == (1, 0.35, False)  # type: ignore[attr-defined]
    assert all(AIM.configure({}, preset=name) for name in PRESETS)


def test_the_papers_presets_have_none_of_our_own_choices() -> None:
    expected = {
        "stop_stage": 2,
        "active_area": 0.25,
        "area_weight": 6.0,
        "area_over": "batch",
        "anneal": True,
        "anneal_fraction": 0.5,
        "noise_until": 1.0,
        "masks": "learned",
        "temperature": 1.0,
        "final_temperature": None,
        "loss_on": "masked",
        "predict_from": "finest",
        "pool": "all",
        "guided": False,
        "objectness": 0.0,
        "features": "topdown",
        "width": 256,
        "smooth_start": "random",
        "smooth_lr_factor": 1.0,
        "mask_width": 64,
        "mask_lr_factor": 1.0,
    }
    config = AIM.configure({}, preset="2-25").model_dump()
    assert {name: config[name] for name in expected} == expected
    assert set(config) - set(expected) == {"initial_logit", "standardize"}  # open at the start; as ERM's features


# Beyond the paper


def test_a_finer_stages_mask_gets_the_energy_of_s3_between_its_positions(pyramid: FeaturePyramid) -> None:
    torch.manual_seed(0)
    features = features_of(pyramid, (16, 8, 4, 2))
    head = AIMHead(pyramid, 3, AIMConfig(stop_stage=2, objectness=2.0, mask_width=4), standardize=False).eval()
    logits = torch.logit(head(features).mask_probabilities["stage2"].double())
    plain = head.topdown["stage2"].mask(features[2]).double()
    e = energy(features[3])[:, 0].double()
    assert e.std() > 0.5
    # Positions of 4 x 4 over 2 x 2: the centres of the first column are outside, the second's a quarter of the way.
    weights = torch.tensor([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]], dtype=torch.float64)
    torch.testing.assert_close(logits - plain, 2 * (weights @ e @ weights.T)[:, None], atol=1e-3, rtol=1e-3)


def test_energy_is_the_standardised_log_of_the_root_mean_square() -> None:
    feature = torch.tensor([[[[1.0, math.e]], [[1.0, math.e]]]])  # two channels, two positions: log rms 0 and 1
    assert energy(feature).flatten().tolist() == pytest.approx([-1.0, 1.0])
    assert torch.isfinite(energy(torch.zeros(1, 2, 3, 3))).all()


def train_statistics(head: nn.Module, features: list[Tensor]) -> None:
    """Shows a head a batch in training, so that to standardise is not to do nothing."""
    with torch.no_grad():
        for _ in range(20):
            head.train()(features)
    head.eval()


@pytest.mark.parametrize("standardize", [False, True])
def test_objectness_adds_the_energy_to_the_mask_logits(standardize: bool, pyramid: FeaturePyramid) -> None:
    """Of S3 as the backbone gives it: standardised channels have no more energy at one position than at another."""
    features = [feature * 2 + 1 for feature in features_of(pyramid, (20, 10, 5, 5))]
    logits = []
    for weight in (0.0, 3.0):
        torch.manual_seed(0)
        head = AIMHead(pyramid, 3, AIMConfig(stop_stage=3, objectness=weight), standardize=standardize)
        train_statistics(head, features)
        logits.append(torch.logit(head(features).mask_probabilities["stage3"].double()))
    torch.testing.assert_close(logits[1] - logits[0], 3 * energy(features[3]).double(), atol=1e-3, rtol=1e-3)


def test_backbone_features_under_an_open_mask_are_erms(pyramid: FeaturePyramid) -> None:
    features = features_of(pyramid, (20, 10, 5, 5))
    config = AIMConfig(stop_stage=3, features="backbone", masks="open")
    head = AIMHead(pyramid, 3, config, standardize=False).eval()
    erm = LinearHead(pyramid, 3).eval()
    erm.classifier.load_state_dict(head.classifiers["stage3"].state_dict())
    expected = erm(features).embedding
    assert expected is not None
    assert (expected - features[3].mean(dim=(2, 3))).abs().max() > 0.1  # this network normalises after pooling
    torch.testing.assert_close(head(features).logits, erm(features).logits)


@pytest.mark.parametrize(("features", "name"), [("backbone", "stage3"), ("both", "own")])
def test_a_classifier_on_s3_standardises_what_it_has_pooled_as_erm_does(
    features: str, name: str, pyramid: FeaturePyramid
) -> None:
    torch.manual_seed(0)
    maps = [feature * 2 + 1 for feature in features_of(pyramid, (20, 10, 5, 5))]
    config = AIMConfig(features=features, width=8, mask_width=4)  # type: ignore[arg-type]
    head = AIMHead(pyramid, 3, config, standardize=True)
    train_statistics(head, maps)
    output = half_open(head, maps)(maps)
    mask = output.masks["stage3"]
    assert 0 < mask.mean() < 1
    pooled = pyramid.embed_mean((maps[3] * mask).sum(dim=(2, 3)) / mask.sum(dim=(2, 3)).clamp(min=1))
    standardised, linear = head.own if name == "own" else head.classifiers[name]
    mean, scale = standardised.statistics()
    assert scale.min() < 0.9
    torch.testing.assert_close(output.stage_logits[name], linear((pooled - mean) / scale))


def test_a_classifier_on_topdown_features_does_not_standardise_again(pyramid: FeaturePyramid) -> None:
    head = AIMHead(pyramid, 3, AIMConfig(width=8, mask_width=4), standardize=True)
    assert isinstance(head.classifiers["stage3"], nn.Linear)


@pytest.mark.parametrize("predict_from", ["mean", "coarsest"])
def test_one_classifier_leaves_nothing_to_choose_between(predict_from: str) -> None:
    with pytest.raises(
        ConfigError, match=f"^method 'aim': predict_from={predict_from} needs several classifiers: stop_stage below 3"
    ):
        get_method("aim").configure({"predict_from": predict_from})
    assert get_method("aim").configure({"predict_from": predict_from, "stop_stage": 2})


def test_backbone_features_have_no_finer_stage() -> None:
    with pytest.raises(ConfigError, match="stop_stage=3"):
        get_method("aim_plus").configure({"stop_stage": 2}, preset="energy")


@pytest.mark.parametrize("stop_stage", [3, 2])
def test_both_features_predict_by_s3_under_aims_masks_without_shaping_them(
    stop_stage: int, pyramid: FeaturePyramid
) -> None:
    torch.manual_seed(0)
    features = features_of(pyramid, (20, 10, 5, 5))
    method = get_method("aim")
    both, aim = (
        AIMHead(pyramid, 3, method.configure({"features": name, "stop_stage": stop_stage}), standardize=False)
        for name in ("both", "topdown")
    )
    half_open(both, features)
    aim.load_state_dict({n: v for n, v in both.state_dict().items() if not n.startswith("own.")})
    output = both(features)
    mask = output.masks["stage3"]
    mean = (features[3] * mask).sum(dim=(2, 3)) / mask.sum(dim=(2, 3)).clamp(min=1)
    torch.testing.assert_close(output.logits, both.own(pyramid.embed_mean(mean)))
    torch.testing.assert_close(output.last_map, features[3] * mask)
    of_coarsest = {"stop_stage": stop_stage, "predict_from": "finest" if stop_stage == 3 else "coarsest"}
    for reads_stage3_alone in (both.config, method.configure(of_coarsest)):
        torch.testing.assert_close(method(reads_stage3_alone).explain(output), mask[:, 0])

    # In training AIM's own part gets the gradients that it gets without the further classifier.
    gradients = []
    for head in (both, aim):
        head.train()
        head.gate.noise = False
        output = head(features)
        assert 0 < output.masks["stage3"].mean() < 1
        aim_loss(output, torch.tensor([0, 1, 2]), head.config, Progress(0, 1, 0, 1))["loss"].backward()
        gradients.append({n: p.grad for n, p in head.named_parameters() if not n.startswith("own.")})
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient)
    assert all(p.grad.abs().sum() > 0 for p in both.own.parameters())


def test_aims_classifier_and_the_one_on_s3_predict_together(pyramid: FeaturePyramid) -> None:
    features = features_of(pyramid, (20, 10, 5, 5))
    method = get_method("aim_plus")
    head = method(method.configure({"width": 8, "mask_width": 4})).build(pyramid, 3, frozen=True)
    half_open(head, features)
    output = head(features)
    assert set(output.stage_logits) == {"stage3", "own"}
    torch.testing.assert_close(output.logits, (output.stage_logits["stage3"] + output.stage_logits["own"]) / 2)


def test_the_classifier_beside_aims_learns_at_erms_rate() -> None:
    method = get_method("aim")
    rates = method(method.configure({"features": "both"})).learning_rates()
    assert method.training_defaults["lr"] * rates["own"] == pytest.approx(get_method("erm").training_defaults["lr"])
    assert "own" not in method(method.configure({})).learning_rates()
    for contradiction in ({"predict_from": "coarsest"}, {"masks": "open"}):
        with pytest.raises(ConfigError, match="predict_from=finest or mean, masks=learned"):
            method.configure({"features": "both", **contradiction})


def test_the_preset_energy_is_what_aim_plus_was() -> None:
    method = get_method("aim_plus")
    config = method(method.configure({}, preset="energy")).defining()
    assert {name: config[name] for name in ("objectness", "features")} == {"objectness": 4.0, "features": "backbone"}
    assert not {"smooth_start", "smooth_lr_factor"} & config.keys()  # as in the records of then


def test_each_step_sets_noise_and_temperature_of_the_gate(pyramid: FeaturePyramid) -> None:
    config = AIMConfig(noise_until=0.5, temperature=2.0, final_temperature=1.0)
    method = AIM(config)
    head = AIMHead(pyramid, 2, config, standardize=False)
    features = features_of(pyramid, (16, 8, 4, 2))
    batch = Batch(torch.arange(3), torch.tensor([0, 1, 0]), features=features)
    model = Classifier(pyramid, head)
    seen = []
    for number in (0, 4, 5, 9):
        method.loss(model, batch, Progress(epoch=number, epochs=10, step=number, steps=10))
        seen.append((head.gate.noise, round(head.gate.temperature, 3)))
    assert seen == [(True, 2.0), (True, 1.556), (False, 1.444), (False, 1.0)]


def test_rates_and_standardisation_are_the_stated_ones(pyramid: FeaturePyramid) -> None:
    assert AIM(AIMConfig()).learning_rates() == {"topdown.stage3.mask": 3.0, "topdown.stage3.branch.smooth": 0.1}
    for frozen, kind in ((True, Standardize), (False, nn.Identity)):
        head = AIM(AIMConfig()).build(pyramid, 2, frozen=frozen)
        assert isinstance(head.topdown["stage3"].standardize, kind)  # type: ignore[operator,index,union-attr]
        asked = AIM(AIMConfig(standardize=not frozen)).build(pyramid, 2, frozen=frozen)
        assert not isinstance(asked.topdown["stage3"].standardize, kind)  # type: ignore[operator,index,union-attr]


def test_the_prior_passes_no_gradient_to_the_backbone(pyramid: FeaturePyramid) -> None:
    stage = TopDownStage(pyramid.channels[3], AIMConfig(objectness=2.0), guided=False, standardize=False)
    feature = torch.randn(2, pyramid.channels[3], 4, 4)
    prior = torch.randn(2, 1, 4, 4, requires_grad=True)
    logits = stage.mask_logits(feature, None, prior)
    assert logits is not None
    assert not torch.equal(logits, stage.mask_logits(feature, None, None))
    logits.sum().backward()
    assert prior.grad is None


def test_the_mask_estimator_written_out(pyramid: FeaturePyramid) -> None:
    torch.manual_seed(0)
    estimator = MaskEstimator(5, 4, 3.0).eval()
    nn.init.normal_(estimator.logit.weight)
    x = torch.randn(2, 5, 6, 6)

    def normed(value: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        return value / math.sqrt(1 + norm.eps)  # statistics and affine parameters are those of a new one

    stem = estimator.stem
    y = F.relu(normed(F.conv2d(x, stem[0].weight, padding=1), stem[1]))  # type: ignore[arg-type]
    for block in estimator.blocks:
        inner = F.relu(normed(F.conv2d(y, block.conv1.weight, padding=1), block.norm1))  # type: ignore[union-attr,arg-type]
        y = F.relu(y + normed(F.conv2d(inner, block.conv2.weight, padding=1), block.norm2))  # type: ignore[union-attr,arg-type]
    pooled = y.mean(dim=(2, 3)) @ estimator.context.weight[:, :, 0, 0].T + estimator.context.bias
    y = F.relu(y + pooled[:, :, None, None])
    expected = torch.einsum("nchw,c->nhw", y, estimator.logit.weight[0, :, 0, 0])[:, None] + 3.0
    torch.testing.assert_close(estimator(x), expected, rtol=1e-4, atol=1e-4)
