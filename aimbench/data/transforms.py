"""From a decoded photograph to the network's input.

Image, mask and boxes pass through one geometric transform (torchvision
transforms v2 on tv_tensors), so that ground truth stays on the object.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from aimbench.data.regions import boxes_to_region


@dataclass(frozen=True)
class TransformConfig:
    """How a split's images are prepared.

    Attributes:
        image_size: side of the square network input, in pixels.
        resize_ratio: evaluation resizes the shorter side to ``image_size * resize_ratio``, then crops the centre.
        augment: training crops at random and flips; else it is prepared like evaluation.
        crop_scale: share of the image's area that a random crop covers.
        crop_ratio: range of a random crop's width over height.
        flip: mirror half of the training images.
        mean, std: normalisation of images in [0, 1], per colour channel.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_ratio: float = 256 / 224
    augment: bool = False
    crop_scale: tuple[float, float] = (0.7, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: bool = True

    @property
    def resize(self) -> int:
        """Shorter side after the evaluation resize, in pixels."""
        return round(self.image_size * self.resize_ratio)

    def without_augmentation(self) -> "TransformConfig":
        """The evaluation transform of the same size and normalisation."""
        return TransformConfig(self.image_size, self.mean, self.std, self.resize_ratio)

    def as_dict(self) -> dict[str, object]:
        """Plain data, for hashes and records."""
        return asdict(self)


@dataclass
class Photograph:
    """A decoded sample.

    Attributes:
        image: ``(3, H, W)`` uint8.
        mask: ``(1, H, W)`` uint8 in {0, 1}, or None.
        boxes: ``(B, 4)`` x0, y0, x1, y1 in pixels.
    """

    image: Tensor
    mask: Tensor | None
    boxes: Tensor


class Transform:
    """Turns a ``Photograph`` into the network's input and its ground-truth region.

    Args:
        config: what is done.
        crop_later: leave augmentation to the device, see ``crop``: images then are whole photographs, squashed to
            ``config.resize`` pixels on both sides.

    Attributes:
        side: of the images that it gives, in pixels.
        is_random: whether two seeds give two images.
    """

    def __init__(self, config: TransformConfig, *, crop_later: bool = False) -> None:
        self.config = config
        self.side = config.resize if crop_later else config.image_size
        self.crop_later = crop_later
        self.is_random = config.augment and not crop_later
        size = [self.side, self.side]
        self._crop = v2.RandomResizedCrop(size, scale=config.crop_scale, ratio=config.crop_ratio, antialias=True)
        if crop_later:
            self._geometry = v2.Compose([v2.Resize(size, antialias=True)])
        else:
            self._geometry = v2.Compose([v2.Resize(config.resize, antialias=True), v2.CenterCrop(size)])
        # (x / 255 - mean) / std as factor * x + shift, for one row of an image whose colours lie last.
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (config.mean, config.std))
        self._factor = (1 / (255 * std)).float().repeat(self.side)
        self._shift = (-mean / std).float().repeat(self.side)

    def __call__(self, photograph: Photograph, *, with_region: bool) -> tuple[Tensor, Tensor | None]:
        """Applies the transform.

        Returns:
            The image ``(3, S, S)`` float32 and, if ``with_region``, the ground-truth region ``(1, S, S)``
            float32 in {0, 1}: the mask where there is one, else the union of the boxes (all zero
            where there is neither).
        """
        image, region = self._framed(photograph, with_region=with_region)
        return self.normalized([image])[0], region

    def seeded(self, photograph: Photograph, seed: int, *, with_region: bool) -> tuple[Tensor, Tensor | None]:
        """Like calling it, but the augmentation follows from ``seed`` alone; the global generator stays as it is."""
        image, region = self.framed(photograph, seed, with_region=with_region)
        return self.normalized([image])[0], region

    def framed(self, photograph: Photograph, seed: int, *, with_region: bool) -> tuple[Tensor, Tensor | None]:
        """As ``seeded``, before normalisation: the image is ``(3, S, S)`` uint8."""
        if not self.is_random:
            return self._framed(photograph, with_region=with_region)
        with _seeded(seed):
            return self._framed(photograph, with_region=with_region)

    def crop(self, height: int, width: int, seed: int) -> tuple[Tensor, bool]:
        """The random crop of a photograph of this size that ``seeded`` would take, for the device to take later.

        Returns:
            Left, top, width and height ``(4,)`` as shares of the photograph's sides, and whether it is mirrored.
        """
        with _seeded(seed):
            box, flip = self._draw(height, width)
        shares = (box["left"] / width, box["top"] / height, box["width"] / width, box["height"] / height)
        return torch.tensor(shares), flip

    def normalized(self, images: Sequence[Tensor]) -> Tensor:
        """Framed images ``(3, S, S)`` as one float32 batch ``(N, 3, S, S)``, colours last in memory.

        What ``v2.ToDtype`` and ``v2.Normalize`` give, up to float rounding, in the time that it takes to write the
        batch: one image at a time stays in the processor's cache, and colours lie last throughout.
        """
        side = self.side
        batch = torch.empty((len(images), 3, side, side), memory_format=torch.channels_last)
        for place, image in zip(batch.permute(0, 2, 3, 1), images, strict=True):
            rows = place.copy_(image.permute(1, 2, 0)).view(side, 3 * side)
            torch.addcmul(self._shift, rows, self._factor, out=rows)
        return batch

    def _framed(self, photograph: Photograph, *, with_region: bool) -> tuple[Tensor, Tensor | None]:
        height, width = photograph.image.shape[-2:]
        place = self._placing(height, width)
        image = place(tv_tensors.Image(photograph.image)).as_subclass(Tensor)
        if not with_region:
            return image, None
        if photograph.mask is not None:
            return image, place(tv_tensors.Mask(photograph.mask)).as_subclass(Tensor).float()
        boxes = tv_tensors.BoundingBoxes(photograph.boxes.reshape(-1, 4), format="XYXY", canvas_size=(height, width))
        placed = place(boxes).as_subclass(Tensor)
        return image, boxes_to_region(placed, (self.side, self.side))[None].float()

    def _placing(self, height: int, width: int) -> Callable[[Tensor], Tensor]:
        """One geometric transform of a photograph of this size, to be applied to image, mask and boxes alike."""
        if not self.is_random:
            geometry: Callable[[Tensor], Tensor] = self._geometry
            return geometry
        box, flip = self._draw(height, width)

        def place(value: Tensor) -> Tensor:
            value = functional.crop(value, **box)
            if isinstance(value, tv_tensors.Image):  # colours last and dense: resizing is twice as quick
                value = tv_tensors.wrap(value.permute(1, 2, 0).contiguous().permute(2, 0, 1), like=value)
            value = functional.resize(value, [self.side, self.side], antialias=True)
            return functional.horizontal_flip(value) if flip else value

        return place

    def _draw(self, height: int, width: int) -> tuple[dict[str, int], bool]:
        """Top, left, height and width of a random crop, and whether it is mirrored, from the global generator."""
        box = self._crop.make_params([torch.empty(1, height, width, dtype=torch.uint8)])
        return box, bool(torch.rand(1) < (0.5 if self.config.flip else 0.0))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global generator starts from ``seed``; afterwards it stands where it stood.

    What torch.random.fork_rng and torch.manual_seed do, without asking every other device: 40 times quicker.
    """
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)
