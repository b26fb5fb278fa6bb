"""Images with the object or its surroundings taken away, moved or made noisy. Regions are ``(N, H, W)``.

Grey is the mean colour of the backbone's training images: 0 in the normalised input. The authors of Hard ImageNet
take 0.5 of each colour, which is the same for networks that are normalised by it.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Perturbation = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes (N, C, H, W) images and (N, H, W) bool regions, none empty; returns both as they are afterwards."""


def grey_outside(image: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """Everything outside the object becomes grey."""
    return image * region[:, None], region


def grey_object(image: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """The object's pixels become grey; its silhouette stays visible."""
    return image * ~region[:, None], region


def grey_box(image: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """The object's bounding box becomes grey."""
    box = bounding_box_region(region)
    return image * ~box[:, None], region


def tile_box(image: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """The bounding box is filled with copies of the background beside it (Hard ImageNet, Moayeri et al. 2022).

    The tile is the largest of the four that adjoin the box, each as large as the box where the image does not end
    before. A box that fills the image becomes grey. The authors fill a box for each connected part of the mask; one
    box around them all leaves nothing of the object in a tile.
    """
    result = image.clone()
    for one, filled, (y0, x0, y1, x1) in zip(image, result, bounding_boxes(region).tolist(), strict=True):
        height, width = y1 - y0, x1 - x0
        right, left = one[:, y0:y1, x1 : x1 + width], one[:, y0:y1, max(x0 - width, 0) : x0]
        below, above = one[:, y1 : y1 + height, x0:x1], one[:, max(y0 - height, 0) : y0, x0:x1]
        tile = max((right, left, below, above), key=Tensor.numel)
        if tile.numel() == 0:
            filled[:, y0:y1, x0:x1] = 0
            continue
        repeats = (1, -(-height // tile.shape[1]), -(-width // tile.shape[2]))
        filled[:, y0:y1, x0:x1] = tile.repeat(*repeats)[:, :height, :width]
    return result, region


def moved_to_border(image: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """The image is shifted until the object's box touches the border farthest from it; the rest is grey."""
    shifts = _shifts(region)
    images = torch.stack([_shift(one, dy, dx) for one, (dy, dx) in zip(image, shifts, strict=True)])
    regions = torch.stack([_shift(one[None], dy, dx)[0] for one, (dy, dx) in zip(region, shifts, strict=True)])
    return images, regions


def cut_as_if_moved(image: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """The control of ``moved_to_border``: what the shift would push out is grey, and the object stays in its place."""
    shifts = _shifts(region)
    back = [_shift(_shift(one, dy, dx), -dy, -dx) for one, (dy, dx) in zip(image, shifts, strict=True)]
    return torch.stack(back), region


def noise_on_object(image: Tensor, region: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Adds ``noise`` (N, C, H, W) to the object's pixels."""
    return image + noise * region[:, None], region


def noise_on_background(image: Tensor, region: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Adds ``noise`` (N, C, H, W) to all other pixels."""
    return image + noise * ~region[:, None], region


def bounding_boxes(region: Tensor) -> Tensor:
    """Smallest boxes that hold the regions.

    Args:
        region: (N, H, W) bool, none empty.

    Returns:
        (N, 4) long: first row, first column, one past the last row, one past the last column.
    """
    rows, columns = region.any(dim=2).long(), region.any(dim=1).long()
    height, width = region.shape[1:]
    return torch.stack(
        [
            rows.argmax(dim=1),
            columns.argmax(dim=1),
            height - rows.flip(1).argmax(dim=1),
            width - columns.flip(1).argmax(dim=1),
        ],
        dim=1,
    )


def bounding_box_region(region: Tensor) -> Tensor:
    """The bounding boxes as (N, H, W) bool regions."""
    y0, x0, y1, x1 = (side[:, None, None] for side in bounding_boxes(region).unbind(dim=1))
    y = torch.arange(region.shape[1], device=region.device)[None, :, None]
    x = torch.arange(region.shape[2], device=region.device)[None, None, :]
    return (y >= y0) & (y < y1) & (x >= x0) & (x < x1)


def removal_curve(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    attribution: Tensor,
    target: Tensor,
    *,
    insert: bool,
    steps: int = 16,
) -> Tensor:
    """Area under the deletion or the insertion curve (Petsiuk et al. 2018, RISE).

    Pixels turn grey (deletion), or appear on grey (insertion), in the order of
    their attribution, the largest first, in ``steps`` equal portions; the area
    under the probability of the target is taken by the trapezoidal rule. A
    faithful map has a small deletion and a large insertion area. Cells of a map
    that are equal, as those of a binary mask, come in an order that is drawn
    once and the same for every image, so a map that says nothing is no wipe
    from the top.

    Args:
        predict: (N, C, H, W) images to (N, K) logits.
        image: (N, C, H, W) normalised.
        attribution: (N, h, w) signed maps, at most as large as the image.
        target: (N,) classes.
        insert: insertion instead of deletion.
        steps: portions, at least 1.

    Returns:
        (N,) areas in [0, 1].
    """
    size = image.shape[-2:]
    scores = F.interpolate(attribution.float()[:, None], size=size, mode="bilinear", align_corners=False).flatten(1)
    drawn = _drawn_order(attribution.shape[-2:], size).to(scores.device)
    among_equals = scores[:, drawn].argsort(dim=1, descending=True, stable=True)
    rank = drawn[among_equals].argsort(dim=1).reshape(-1, 1, *size)
    pixels = size[0] * size[1]
    probabilities = []
    for step in range(steps + 1):
        first = rank < round(pixels * step / steps)
        kept = image * (first if insert else ~first)
        probabilities.append(predict(kept).float().softmax(dim=1).gather(1, target[:, None])[:, 0])
    return torch.trapezoid(torch.stack(probabilities), dx=1 / steps, dim=0)


def _drawn_order(cells: torch.Size, size: torch.Size) -> Tensor:
    """Pixels of an image of ``size`` cell by cell of a map laid over it, the cells in a drawn order, ``(H * W,)``."""
    order = torch.randperm(cells[0] * cells[1], generator=torch.Generator().manual_seed(0)).float()
    return F.interpolate(order.reshape(1, 1, *cells), size=size, mode="nearest-exact").flatten().argsort(stable=True)


def _shifts(region: Tensor) -> list[tuple[int, int]]:
    """Rows and columns by which each image moves: towards the farthest border, along one axis."""
    height, width = region.shape[1:]
    shifts = []
    for y0, x0, y1, x1 in bounding_boxes(region).tolist():
        moves = [(-y0, 0), (height - y1, 0), (0, -x0), (0, width - x1)]
        shifts.append(max(moves, key=lambda move: abs(move[0]) + abs(move[1])))
    return shifts


def _shift(image: Tensor, rows: int, columns: int) -> Tensor:
    """A (C, H, W) image moved down and right; what comes in is 0."""
    height, width = image.shape[1:]
    result = torch.zeros_like(image)
    result[:, max(rows, 0) : height + min(rows, 0), max(columns, 0) : width + min(columns, 0)] = image[
        :, max(-rows, 0) : height - max(rows, 0), max(-columns, 0) : width - max(columns, 0)
    ]
    return result
