"""Image, mask and boxes stay together: an object is painted into a photograph and looked for after the transform."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from aimbench.data.regions import boxes_to_region
from aimbench.data.transforms import Photograph, Transform, TransformConfig
from aimbench.errors import DataError

PLAIN = TransformConfig(64, mean=(0.5,) * 3, std=(0.25,) * 3)
AUGMENTED = dataclasses.replace(PLAIN, augment=True, crop_scale=(0.4, 1.0))


def ring(region: Tensor) -> Tensor:
    """Where interpolation may blur the edge: within two pixels of it."""
    grown = F.max_pool2d(region, 5, stride=1, padding=2)
    shrunk = -F.max_pool2d(-region, 5, stride=1, padding=2)
    return grown != shrunk


def painted(object_: Tensor) -> Tensor:
    """A black photograph with a white object."""
    return (object_.expand(3, -1, -1) * 255).to(torch.uint8)


def crooked(height: int, width: int) -> Tensor:
    """An L off the centre, so that every flip, shift and swap of axes shows."""
    mask = torch.zeros(1, height, width, dtype=torch.uint8)
    mask[:, height // 8 : height * 6 // 8, width // 4 : width * 3 // 8] = 1
    mask[:, height * 5 // 8 : height * 6 // 8, width // 4 : width * 7 // 8] = 1
    return mask


def agree(image: Tensor, region: Tensor) -> None:
    white = image.mean(dim=0, keepdim=True) > 0  # mean 0.5 is subtracted
    clear = ~(ring(region) | ring(white.float()))
    assert clear.float().mean() > 0.5
    assert torch.equal(white[clear], region[clear] > 0.5)


@pytest.mark.parametrize(("height", "width"), [(90, 120), (150, 100), (40, 48)])
@pytest.mark.parametrize("config", [PLAIN, AUGMENTED])
def test_mask_stays_on_the_object(config: TransformConfig, height: int, width: int) -> None:
    mask = crooked(height, width)
    transform = Transform(config)
    photograph = Photograph(painted(mask), mask, torch.zeros(0, 4))
    seen = set()
    for seed in range(20):
        image, region = transform.seeded(photograph, seed, with_region=True)
        assert region is not None
        assert image.shape == (3, 64, 64)
        assert region.shape == (1, 64, 64)
        assert set(region.unique().tolist()) <= {0.0, 1.0}
        agree(image, region)
        seen.add(region.numpy().tobytes())
    assert len(seen) == (20 if config.augment else 1)


@pytest.mark.parametrize("config", [PLAIN, AUGMENTED])
def test_boxes_stay_on_the_objects(config: TransformConfig) -> None:
    boxes = torch.tensor([[10.0, 20, 40, 50], [60, 5, 110, 30], [30, 40, 70, 80]])
    object_ = torch.zeros(1, 90, 120)
    for x0, y0, x1, y1 in boxes.int().tolist():
        object_[:, y0:y1, x0:x1] = 1
    photograph = Photograph(painted(object_), None, boxes)
    transform = Transform(config)
    for seed in range(20):
        image, region = transform.seeded(photograph, seed, with_region=True)
        assert region is not None
        agree(image, region)


def test_region_is_the_mask_where_there_is_one_else_the_boxes_else_nothing() -> None:
    mask = crooked(80, 80)
    box = torch.tensor([[0.0, 0, 80, 80]])
    image = painted(mask)
    transform = Transform(TransformConfig(80, PLAIN.mean, PLAIN.std, resize_ratio=1.0))
    assert torch.equal(transform(Photograph(image, mask, box), with_region=True)[1], mask.float())
    assert transform(Photograph(image, None, box), with_region=True)[1].min() == 1
    assert transform(Photograph(image, None, torch.zeros(0, 4)), with_region=True)[1].max() == 0
    assert transform(Photograph(image, mask, box), with_region=False)[1] is None


@pytest.mark.parametrize(("height", "width"), [(120, 200), (200, 120), (96, 96)])
def test_evaluation_resizes_the_shorter_side_and_crops_the_centre(height: int, width: int) -> None:
    """A photograph whose red is its x and whose green is its y tells where each output pixel came from."""
    x = (torch.arange(width) + 0.5).expand(height, width)
    y = (torch.arange(height) + 0.5)[:, None].expand(height, width)
    image = torch.stack([x, y, torch.zeros_like(x)]).round().to(torch.uint8)
    config = TransformConfig(56, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert config.resize == 64
    assert dataclasses.replace(config, image_size=160).resize == 183  # 182.86
    result, _ = Transform(config)(Photograph(image, None, torch.zeros(0, 4)), with_region=False)
    scale = min(height, width) / 64
    centred = (torch.arange(56) + 0.5 - 28) * scale
    torch.testing.assert_close(result[0, 20] * 255, width / 2 + centred, atol=1.5, rtol=0)
    torch.testing.assert_close(result[1, :, 20] * 255, height / 2 + centred, atol=1.5, rtol=0)


def test_image_does_not_depend_on_whether_the_region_is_asked_for() -> None:
    mask = crooked(90, 120)
    photograph = Photograph(torch.randint(256, (3, 90, 120), dtype=torch.uint8), mask, torch.tensor([[1.0, 2, 9, 9]]))
    for config in (PLAIN, AUGMENTED):
        transform = Transform(config)
        with_region, _ = transform.seeded(photograph, 3, with_region=True)
        without, _ = transform.seeded(photograph, 3, with_region=False)
        assert torch.equal(with_region, without)


def test_normalisation() -> None:
    grey = torch.full((3, 64, 64), 51, dtype=torch.uint8)  # 0.2
    config = TransformConfig(64, mean=(0.1, 0.2, 0.4), std=(1.0, 2.0, 0.5))
    image, _ = Transform(config)(Photograph(grey, None, torch.zeros(0, 4)), with_region=False)
    torch.testing.assert_close(image.mean(dim=(1, 2)), torch.tensor([0.1, 0.0, -0.4]), atol=1e-5, rtol=0)


def test_seed_alone_decides_the_augmentation() -> None:
    photograph = Photograph(torch.randint(256, (3, 90, 120), dtype=torch.uint8), None, torch.zeros(0, 4))
    transform = Transform(AUGMENTED)
    state = torch.get_rng_state()
    first, _ = transform.seeded(photograph, 7, with_region=False)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    again, _ = transform.seeded(photograph, 7, with_region=False)
    other, _ = transform.seeded(photograph, 8, with_region=False)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_flip_where_the_card_forbids_it() -> None:
    half = torch.zeros(1, 64, 64, dtype=torch.uint8)
    half[..., :32] = 1
    config = dataclasses.replace(AUGMENTED, crop_scale=(0.9, 1.0))

    def left_heavy(config: TransformConfig) -> list[bool]:
        transform = Transform(config)
        photograph = Photograph(painted(half), half, torch.zeros(0, 4))
        regions = [transform.seeded(photograph, seed, with_region=True)[1] for seed in range(40)]
        return [bool(r[..., :32].sum() > r[..., 32:].sum()) for r in regions if r is not None]

    assert all(left_heavy(dataclasses.replace(config, flip=False)))
    assert 8 < sum(left_heavy(config)) < 32


def test_without_augmentation_keeps_size_and_normalisation() -> None:
    plain = dataclasses.replace(AUGMENTED, resize_ratio=1.5).without_augmentation()
    assert plain == TransformConfig(64, AUGMENTED.mean, AUGMENTED.std, 1.5)
    assert plain.as_dict()["augment"] is False


def test_union_of_boxes_by_hand() -> None:
    region = boxes_to_region(torch.tensor([[0.0, 0, 2, 1], [1, 0, 3, 2], [2.6, 2, 99, 99]]), (3, 4))
    assert region.int().tolist() == [[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]  # a pixel counts by its centre
    halves = boxes_to_region(torch.tensor([[0.5, 0.5, 1.5, 1.5]]), (3, 3))
    assert halves.nonzero().tolist() == [[0, 0]], "a box ends before the centre that lies on its end"
    with pytest.raises(DataError, match="ends before it starts"):
        boxes_to_region(torch.tensor([[3.0, 0, 2, 1]]), (3, 4))
    with pytest.raises(DataError, match=r"give \(K, 4\)"):
        boxes_to_region(torch.zeros(4), (3, 4))


@pytest.mark.parametrize("augment", [False, True])
def test_network_input_is_that_of_torchvisions_own_pipeline(augment: bool) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    config = TransformConfig(64, mean, std, augment=augment)
    image = torch.randint(256, (3, 90, 120), dtype=torch.uint8)
    crop = v2.RandomResizedCrop([64, 64], scale=config.crop_scale, ratio=config.crop_ratio, antialias=True)
    training = [crop, v2.RandomHorizontalFlip()]
    evaluation = [v2.Resize(config.resize, antialias=True), v2.CenterCrop(64)]
    scaled = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    reference = v2.Compose([*(training if augment else evaluation), *scaled])
    colours_last = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for seed in range(5):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            expected = reference(image)
        before = torch.get_rng_state()
        for pixels in (image, colours_last):
            photograph = Photograph(pixels, None, torch.zeros(0, 4))
            seen, _ = Transform(config).seeded(photograph, seed, with_region=False)
            torch.testing.assert_close(seen, expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(torch.get_rng_state(), before), "the global generator stays where it is"
