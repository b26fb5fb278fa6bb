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
