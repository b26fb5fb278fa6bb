"""From a decoded photograph to the network's input.

Image, mask and boxes pass through one geometric transform (torchvision
transforms v2 on tv_tensors), so that ground truth stays on the object.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

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
    """Turns a ``Photograph`` into the network's input and its ground-truth region."""

    def __init__(self, config: TransformConfig) -> None:
        self.config = config
        size = [config.image_size, config.image_size]
        if config.augment:
            crop = v2.RandomResizedCrop(size, scale=config.crop_scale, ratio=config.crop_ratio, antialias=True)
            self._geometry = v2.Compose([crop, v2.RandomHorizontalFlip(0.5 if config.flip else 0.0)])
        else:
            self._geometry = v2.Compose([v2.Resize(config.resize, antialias=True), v2.CenterCrop(size)])
        # (x / 255 - mean) / std as factor * x + shift, for one row of an image whose colours lie last.
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (config.mean, config.std))
        self._factor = (1 / (255 * std)).float().repeat(config.image_size)
        self._shift = (-mean / std).float().repeat(config.image_size)

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
        if not self.config.augment:
            return self._framed(photograph, with_region=with_region)
        # What torch.random.fork_rng and torch.manual_seed do, without asking every other device: 40 times quicker.
        generator = torch.default_generator
        state = generator.get_state()
        generator.manual_seed(seed)
        try:
            return self._framed(photograph, with_region=with_region)
        finally:
            generator.set_state(state)

    def normalized(self, images: Sequence[Tensor]) -> Tensor:
        """Framed images ``(3, S, S)`` as one float32 batch ``(N, 3, S, S)``, colours last in memory.

        What ``v2.ToDtype`` and ``v2.Normalize`` give, up to float rounding, in the time that it takes to write the
        batch: one image at a time stays in the processor's cache, and colours lie last throughout.
        """
        side = self.config.image_size
        batch = torch.empty((len(images), 3, side, side), memory_format=torch.channels_last)
        for place, image in zip(batch.permute(0, 2, 3, 1), images, strict=True):
            rows = place.copy_(image.permute(1, 2, 0)).view(side, 3 * side)
            torch.addcmul(self._shift, rows, self._factor, out=rows)
        return batch

    def _framed(self, photograph: Photograph, *, with_region: bool) -> tuple[Tensor, Tensor | None]:
        image = tv_tensors.Image(photograph.image)
        if not with_region:
            return self._geometry(image).as_subclass(Tensor), None
        height, width = photograph.image.shape[-2:]
        if photograph.mask is not None:
            image, mask = self._geometry(image, tv_tensors.Mask(photograph.mask))
            region = mask.as_subclass(Tensor).float()
        else:
            boxes = tv_tensors.BoundingBoxes(
                photograph.boxes.reshape(-1, 4), format="XYXY", canvas_size=(height, width)
            )
            image, boxes = self._geometry(image, boxes)
            size = (self.config.image_size, self.config.image_size)
            region = boxes_to_region(boxes.as_subclass(Tensor), size)[None].float()
        return image.as_subclass(Tensor), region
