"""Pooling inside, and outside, the ground truth by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from aimbench.data.dataset import ShardDataset
from aimbench.errors import ConfigError
from aimbench.models.backbones import create_pyramid
from aimbench.train.progress import Reporter
from aimbench.train.registry import get_method


@pytest.mark.parametrize(("inverse", "first"), [(False, (1 * 8 + 0.5 * 2) / 1.5), (True, (0.5 * 2 + 4 + 6) / 2.5)])
def test_positions_count_by_the_share_that_the_mask_covers(inverse: bool, first: float) -> None:
    pyramid = create_pyramid("test_resnet.r160_in1k")
    method = get_method("oracle_mask")
    head = method(method.configure({"inverse": inverse})).build(pyramid, 3, frozen=False)
    feature = torch.zeros(3, pyramid.channels[-1], 2, 2)
    feature[:, 0] = torch.tensor([[8.0, 2.0], [4.0, 6.0]])
    mask = torch.zeros(3, 1, 4, 4)
    mask[0, 0, :2, :3] = 1  # all of the first position and half of the second
    mask[2] = 1  # the second sample has no ground truth; the third is object everywhere
    output = head([torch.empty(0)] * 3 + [feature], mask)
    assert output.embedding is not None
    assert output.embedding[:, 0].tolist() == pytest.approx([first, 5.0, 0.0 if inverse else 5.0])
    torch.testing.assert_close(output.logits, head.classifier(output.embedding))
    assert output.last_map is not None  # what GradCAM reads: the map that is pooled
    weight = torch.tensor([[1, 0.5], [0, 0]])
    torch.testing.assert_close(output.last_map[0], feature[0] * (1 - weight if inverse else weight))


@pytest.mark.parametrize("name", ["test_convnext.r160_in1k", "test_efficientnet.r160_in1k"])
def test_an_object_everywhere_is_erm(name: str) -> None:
    pyramid = create_pyramid(name).eval()
    features = [torch.empty(0)] * 3 + [torch.randn(2, pyramid.channels[-1], 3, 3)]
    method = get_method("oracle_mask")
    head = method(method.configure({})).build(pyramid, 3, frozen=False)
    torch.testing.assert_close(head(features, torch.ones(2, 1, 6, 6)).embedding, pyramid.embed(features))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float | None], None]:
    """Lets datasets say which share of their samples has a mask and which a box."""
    opened = ShardDataset.open

    def set_shares(masks: float, boxes: float | None) -> None:
        def with_shares(*arguments: Any) -> ShardDataset:
            dataset = opened(*arguments)
            shares = {"share_with_mask": masks, "share_with_boxes": boxes}
            truth = dataset.manifest.ground_truth.model_copy(update=shares)
            return replace(dataset, manifest=dataset.manifest.model_copy(update={"ground_truth": truth}))

        monkeypatch.setattr("aimbench.train.experiment.ShardDataset.open", with_shares)

    return set_shares


@pytest.mark.parametrize("name", ["oracle_mask", "gals"])
def test_a_dataset_without_objects_is_refused(name: str, experiment: Callable[..., Any], known: Any) -> None:
    known(0.0, None)
    with pytest.raises(ConfigError, match=f"'{name}' reads each object's mask or box, and waterbirds@mini has neither"):
        experiment(name)
    experiment("erm")


@pytest.mark.parametrize(("masks", "boxes", "said"), [(1.0, 0.2, []), (0.2, 1.0, []), (0.2, 0.75, ["25.0%"])])
def test_samples_without_an_object_are_said(
    masks: float,
    boxes: float,
    said: list[str],
    experiment: Callable[..., Any],
    known: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(Reporter, "warn", lambda reporter, text: warned.append(text))
    known(masks, boxes)
    experiment("oracle_mask", training={"epochs": 1}).run()
    assert [share for text in warned for share in said if share in text] == said
    assert len([text for text in warned if "neither mask nor box" in text]) == len(said)
