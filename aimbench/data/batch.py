"""The one batch type. It holds only what its reader is entitled to; asking for more raises."""

from collections.abc import Iterable

import torch
from torch import Tensor

from aimbench.data.crops import Crops
from aimbench.errors import RegimeError

ENTITLEMENTS = ("group", "mask")


class Batch:
    """N samples of one split.

    Attributes:
        index: ``(N,)``, positions in the split.
        label: ``(N,)``, class indices.
        features: the backbone's pyramid where it was computed before (frozen backbone), else None.
    """

    __slots__ = ("_crops", "_group", "_image", "_keys", "_mask", "features", "index", "label")

    def __init__(
        self,
        index: Tensor,
        label: Tensor,
        *,
        image: Tensor | None = None,
        features: list[Tensor] | None = None,
        group: Tensor | None = None,
        mask: Tensor | None = None,
        keys: list[str] | None = None,
        crops: Crops | None = None,
    ) -> None:
        self.index = index
        self.label = label
        self.features = features
        self._image = image
        self._group = group
        self._mask = mask
        self._keys = keys
        self._crops = crops  # still to be taken, by ``to``

    def __len__(self) -> int:
        return len(self.label)

    @property
    def image(self) -> Tensor:
        """Normalised images ``(N, 3, H, W)``."""
        if self._image is None:
            raise RegimeError(
                "this batch holds cached features and no images (frozen backbone); read batch.features,"
                " or declare 'needs_images = True' on the method"
            )
        return self._image

    @property
    def has_image(self) -> bool:
        """Whether the batch holds images."""
        return self._image is not None

    @property
    def keys(self) -> list[str]:
        """Sample keys, one a sample."""
        return self._keys or []

    @property
    def group(self) -> Tensor:
        """Group indices ``(N,)``, for methods whose regime declares groups."""
        return _entitled(self._group, "group", "groups")

    @property
    def mask(self) -> Tensor:
        """Ground-truth masks ``(N, 1, H, W)`` in {0, 1}, for methods whose regime declares masks."""
        return _entitled(self._mask, "mask", "masks")

    def restricted(self, fields: Iterable[str]) -> "Batch":
        """The same batch with only those of ``group`` and ``mask`` that are named in ``fields``."""
        allowed = set(fields)
        return Batch(
            self.index,
            self.label,
            image=self._image,
            features=self.features,
            group=self._group if "group" in allowed else None,
            mask=self._mask if "mask" in allowed else None,
            keys=self._keys,
            crops=self._crops,
        )

    def to(self, device: torch.device, *, channels_last: bool = False) -> "Batch":
        """The same batch on ``device``, which takes the crops that were left to it."""
        memory = torch.channels_last if channels_last else torch.contiguous_format

        def move(value: Tensor | None) -> Tensor | None:
            if value is None:
                return None
            layout = memory if value.dim() == 4 else torch.preserve_format
            return value.to(device, non_blocking=True, memory_format=layout)

        def placed(value: Tensor | None, mode: str) -> Tensor | None:
            moved = move(value)
            return moved if crops is None or moved is None else move(crops.take(moved, mode))

        crops = None if self._crops is None else self._crops.to(device)
        features = None if self.features is None else [f.to(device, non_blocking=True) for f in self.features]
        return Batch(
            self.index.to(device, non_blocking=True),
            self.label.to(device, non_blocking=True),
            image=placed(self._image, "bilinear"),
            features=features,
            group=move(self._group),
            mask=placed(self._mask, "nearest"),
            keys=self._keys,
        )


def _entitled(value: Tensor | None, name: str, regime: str) -> Tensor:
    if value is None:
        raise RegimeError(
            f"batch.{name} was asked for, but this reader's regime does not include {regime};"
            f' declare Regime(train="{regime}") on the method'
        )
    return value
