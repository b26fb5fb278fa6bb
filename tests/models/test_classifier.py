"""Heads on a pyramid: the ordinary classifier is timm's own network."""

import pytest
import timm
import torch
from torch import Tensor

from aimbench.data.batch import Batch
from aimbench.errors import RegimeError
from aimbench.models.backbones import FeaturePyramid, create_pyramid
from aimbench.models.classifier import Classifier, Head, LinearHead, Output, Standardize

NETWORKS = ["test_convnext.r160_in1k", "test_resnet.r160_in1k", "test_efficientnet.r160_in1k", "test_vit.r160_in1k"]


def batch_of(image: Tensor, **entries: object) -> Batch:
    label = torch.zeros(len(image), dtype=torch.long)
    return Batch(torch.arange(len(image)), label, image=image, **entries)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NETWORKS)
def test_linear_head_gives_the_logits_of_timms_own_classifier(name: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=7).eval()
    pyramid = create_pyramid(name)
    body = {k: v for k, v in network.state_dict().items() if k in pyramid.network.state_dict()}
    pyramid.network.load_state_dict(body)
    head = LinearHead(pyramid, 7)
    head.classifier.load_state_dict(network.get_classifier().state_dict())
    image = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        output = Classifier(pyramid, head).eval()(batch_of(image))
        torch.testing.assert_close(output.logits, network(image), rtol=1e-4, atol=1e-5)


def test_head_holds_its_own_parameters_only() -> None:
    pyramid = create_pyramid(NETWORKS[0])
    head = LinearHead(pyramid, 7)
    assert sum(p.numel() for p in head.parameters()) == 7 * pyramid.embed_dim + 7
    names = [name for name, _ in Classifier(pyramid, head).named_parameters(remove_duplicate=False)]
    assert len({name.split(".")[0] for name in names}) == 2
    assert sum(name.startswith("head.") for name in names) == 2


@pytest.mark.parametrize("name", NETWORKS)
def test_named_entries_are_all_that_the_linear_head_reads(name: str) -> None:
    """Cached features keep only these, so the others may be empty."""
    pyramid = create_pyramid(name).eval()
    model = Classifier(pyramid, LinearHead(pyramid, 7)).eval()
    image = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        expected = model(batch_of(image)).logits
        features = model.features(image)
        kept = [f if i in model.head.stages else torch.empty(0) for i, f in enumerate(features)]
        cached = Batch(torch.arange(2), torch.zeros(2, dtype=torch.long), features=kept)
        assert torch.equal(model(cached).logits, expected)


@pytest.mark.parametrize("shape", [(64, 5), (16, 5, 3, 4)])
def test_standardize_is_per_channel(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    scale = torch.tensor([1e-3, 1.0, 10, 1e3, 5]).reshape(1, 5, *[1] * (len(shape) - 2))
    x = torch.randn(shape) * scale + 3 * scale
    layer = Standardize(5)
    assert list(layer.parameters()) == []
    result = layer.train()(x)
    assert result.shape == x.shape
    channels = result.transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(dim=1), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(channels[1:].std(dim=1, correction=0), torch.ones(4), atol=1e-3, rtol=0)
    for _ in range(200):
        layer(x)  # the running statistics reach those of the data
    torch.testing.assert_close(layer.eval()(x), result, atol=2e-2, rtol=2e-2)


class _Reader(Head):
    """Keeps what it was handed."""

    def __init__(self, *, reads_mask: bool) -> None:
        super().__init__()
        self.reads_mask = reads_mask
        self.seen: Tensor | None = None

    def forward(self, features: list[Tensor], mask: Tensor | None = None) -> Output:
        self.seen = mask
        return Output(logits=features[-1].mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def pyramid() -> FeaturePyramid:
    return create_pyramid(NETWORKS[0]).eval()


def test_ground_truth_reaches_only_heads_that_read_it(pyramid: FeaturePyramid) -> None:
    mask = torch.ones(1, 1, 64, 64)
    batch = batch_of(torch.randn(1, 3, 64, 64), mask=mask)
    for reads_mask in (True, False):
        head = _Reader(reads_mask=reads_mask)
        Classifier(pyramid, head)(batch)
        assert (head.seen is mask) is reads_mask


def test_head_that_reads_masks_outside_its_regime_is_refused(pyramid: FeaturePyramid) -> None:
    with pytest.raises(RegimeError, match=r"batch\.mask"):
        Classifier(pyramid, _Reader(reads_mask=True))(batch_of(torch.randn(1, 3, 64, 64)))
