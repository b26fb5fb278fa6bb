"""Crops taken on the device are those that the loader would take of the photograph."""

import dataclasses

import pytest
import torch

from aimbench.data.crops import Crops
from aimbench.data.transforms import Photograph, Transform, TransformConfig

AUGMENTED = TransformConfig(64, mean=(0.5,) * 3, std=(0.25,) * 3, augment=True, crop_scale=(0.5, 1.0))


def smooth(height: int, width: int) -> Photograph:
    """Waves that no resampling loses, with a mask off the centre."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    waves = torch.stack([(6 * x).sin(), (5 * y).cos(), (4 * x + 3 * y).sin()])
    mask = ((x - 0.4).abs() < 0.2) & ((y - 0.6).abs() < 0.25)
    return Photograph((127 * waves + 128).to(torch.uint8), mask[None].to(torch.uint8), torch.zeros(0, 4))


@pytest.mark.parametrize(("height", "width"), [(120, 180), (170, 100)])
@pytest.mark.parametrize("flip", [True, False])
def test_same_crops_as_torchvisions_of_the_photograph(height: int, width: int, flip: bool) -> None:
    config = dataclasses.replace(AUGMENTED, flip=flip)
    photograph = smooth(height, width)
    before, after = Transform(config), Transform(config, crop_later=True)
    state = torch.get_rng_state()
    mirrored = []
    for seed in range(12):
        expected, expected_region = before.seeded(photograph, seed, with_region=True)
        squashed, region = after.seeded(photograph, seed, with_region=True)
        assert squashed.shape == (3, config.resize, config.resize)
        assert region is not None
        assert expected_region is not None
        box, flipped = after.crop(height, width, seed)
        crops = Crops(box[None], torch.tensor([flipped]), 64)
        torch.testing.assert_close(crops.take(squashed[None])[0], expected, atol=0.15, rtol=0)  # of a range of 4
        differing = crops.take(region[None], "nearest")[0] != expected_region
        assert differing.float().mean() < 0.03, "but for the edge"
        mirrored.append(flipped)
    assert torch.equal(torch.get_rng_state(), state)
    assert any(mirrored) is flip
    assert not all(mirrored)


def test_whole_images_and_halves_by_hand() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    whole, right = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.5, 0, 0.5, 1]])
    no, yes = torch.tensor([False]), torch.tensor([True])
    assert torch.equal(Crops(whole, no, 4).take(image), image)
    assert torch.equal(Crops(whole, yes, 4).take(image), image.flip(-1))
    halves = Crops(right, no, 2).take(image)
    assert halves[0, 0].tolist() == [[4, 5], [12, 13]]  # halfway between two rows, columns 2 and 3
    assert Crops(whole, no, 8).take(torch.ones(1, 1, 4, 4)).min() == 1  # nothing dark comes in over the edge
    assert Crops(whole[:0], no[:0], 2).take(image[:0]).shape == (0, 1, 2, 2)
