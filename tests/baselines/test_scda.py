"""SCDA's selection against a hand-computed case."""

import torch

from aimbench.models.backbones import create_pyramid
from aimbench.train.registry import get_method


def test_positions_above_the_images_mean_are_averaged() -> None:
    pyramid = create_pyramid("test_resnet.r160_in1k")
    method = get_method("scda")
    head = method(method.configure({})).build(pyramid, 3, frozen=False)
    feature = torch.zeros(2, pyramid.channels[-1], 2, 2)
    feature[0, 0] = torch.tensor([[4.0, 2.0], [0.0, 0.0]])  # mean 1.5: the upper row is selected
    feature[1, 1] = 5.0  # constant: every position stays
    output = head([torch.empty(0)] * 3 + [feature])
    assert output.masks["stage3"][0, 0].tolist() == [[1, 1], [0, 0]]
    assert output.masks["stage3"][1, 0].tolist() == [[1, 1], [1, 1]]
    assert output.embedding is not None
    assert output.embedding[0, :2].tolist() == [3.0, 0.0]
    assert output.embedding[1, :2].tolist() == [0.0, 5.0]
    feature[0, 1] = torch.tensor([[-9.0, 0.0], [0.0, 0.0]])  # sums are -5, 2, 0, 0: what is negative does not respond
    output = head([torch.empty(0)] * 3 + [feature])
    assert output.masks["stage3"][0, 0].tolist() == [[0, 1], [1, 1]]
    assert output.last_map is not None  # what GradCAM reads: the map that is pooled
    assert output.last_map[0, :2].tolist() == [[[0, 2], [0, 0]], [[0, 0], [0, 0]]]


def test_a_constant_map_is_erm() -> None:
    pyramid = create_pyramid("test_convnext.r160_in1k").eval()
    features = [torch.empty(0)] * 3 + [torch.randn(2, pyramid.channels[-1], 1, 1).expand(-1, -1, 2, 2)]
    method = get_method("scda")
    head = method(method.configure({})).build(pyramid, 3, frozen=False)
    torch.testing.assert_close(head(features).embedding, pyramid.embed(features))
