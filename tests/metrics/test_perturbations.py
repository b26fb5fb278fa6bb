import pytest
import torch

from aimbench.metrics import perturbations as p


def picture():
    """1 to 20 in 4 rows and 5 columns, object at rows 1-2 of column 3 (not square, off the centre)."""
    image = torch.arange(1.0, 21.0).reshape(1, 1, 4, 5)
    region = torch.zeros(1, 4, 5, dtype=torch.bool)
    region[0, 1:3, 3] = True
    return image, region


def test_boxes_are_row_first():
    assert p.bounding_boxes(picture()[1]).tolist() == [[1, 3, 3, 4]]
    diagonal = torch.eye(4, dtype=torch.bool)[None, 1:3]  # rows 1 and 2 of the identity
    assert p.bounding_boxes(diagonal).tolist() == [[0, 1, 2, 3]]
    assert p.bounding_box_region(diagonal)[0].tolist() == [[False, True, True, False]] * 2


def test_greying():
    image, region = picture()
    assert p.grey_outside(image, region)[0].sum() == 9 + 14
    assert p.grey_object(image, region)[0].sum() == 210 - 9 - 14
    corner = torch.zeros(1, 4, 5, dtype=torch.bool)
    corner[0, 0, 0] = corner[0, 1, 1] = True
    assert p.grey_object(image, corner)[0].sum() == 210 - 1 - 7
    assert p.grey_box(image, corner)[0].sum() == 210 - 1 - 2 - 6 - 7


def test_tiles_come_from_the_largest_neighbour_of_the_box():
    image = torch.arange(1.0, 25.0).reshape(1, 1, 3, 8)
    region = torch.zeros(1, 3, 8, dtype=torch.bool)
    region[0, 1, 3] = region[0, 0, 4] = True  # a box of rows 0 and 1, columns 3 and 4
    # Right and left of it two columns are free, below one row: 4, 4 and 2 pixels. The first of equals is the right.
    tiled = p.tile_box(image, region)[0]
    assert tiled[0, 0].tolist() == [[1, 2, 3, 6, 7, 6, 7, 8], [9, 10, 11, 14, 15, 14, 15, 16], list(range(17, 25))]
    # One column to the right of a box of rows 1 and 2, columns 5 and 6: to the left are two, those beside the box.
    tiled = p.tile_box(image, region.roll((1, 2), (1, 2)))[0]
    assert tiled[0, 0, 1:].tolist() == [[9, 10, 11, 12, 13, 12, 13, 16], [17, 18, 19, 20, 21, 20, 21, 24]]


def test_a_tile_is_no_larger_than_the_box_and_lies_beside_it():
    image, region = torch.arange(1.0, 13.0).reshape(1, 1, 4, 3), torch.zeros(1, 4, 3, dtype=torch.bool)
    region[0, 0, 0] = True  # one pixel right of it and one below, though more rows follow: the first of equals
    assert p.tile_box(image, region)[0][0, 0].tolist() == [[2, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]
    assert p.tile_box(image, region.flip(1))[0][0, 0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [11, 11, 12]]
    region[0, 0] = True  # nothing beside the whole last row; above it, the row that adjoins
    assert p.tile_box(image, region.flip(1))[0][0, 0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [7, 8, 9]]


def test_a_tile_is_repeated_until_the_box_is_full():
    image, region = torch.arange(1.0, 11.0).reshape(1, 1, 2, 5), torch.zeros(1, 2, 5, dtype=torch.bool)
    region[0, :, :3] = True  # two columns are left for a box of three
    assert p.tile_box(image, region)[0][0, 0].tolist() == [[4, 5, 4, 4, 5], [9, 10, 9, 9, 10]]
    assert p.tile_box(image, torch.ones_like(region))[0].sum() == 0


def test_moving_to_the_farthest_border_and_its_control():
    image, region = picture()
    moved, where = p.moved_to_border(image, region)
    # Three columns to the left is the longest way: what was in columns 3 and 4 is in 0 and 1.
    assert moved[0, 0].tolist() == [[4, 5, 0, 0, 0], [9, 10, 0, 0, 0], [14, 15, 0, 0, 0], [19, 20, 0, 0, 0]]
    assert where[0, :, 0].tolist() == [False, True, True, False]
    control, still = p.cut_as_if_moved(image, region)
    assert control[0, 0].tolist() == [[0, 0, 0, 4, 5], [0, 0, 0, 9, 10], [0, 0, 0, 14, 15], [0, 0, 0, 19, 20]]
    assert torch.equal(still, region)


@pytest.mark.parametrize(
    "turned",
    [lambda x: x.flip(-1), lambda x: x.transpose(-1, -2), lambda x: x.transpose(-1, -2).flip(-2)],
    ids=["right", "up", "down"],
)
def test_every_border_can_be_the_farthest(turned):
    image, region = picture()  # moves to the left
    region[0, 1, 4] = True  # a box of two columns
    for move in (p.moved_to_border, p.cut_as_if_moved):
        for found, expected in zip(move(turned(image), turned(region)), move(image, region), strict=True):
            assert torch.equal(found, turned(expected))


def test_noise_stays_on_its_side():
    image, region = picture()
    noise = torch.ones_like(image)
    assert torch.equal(p.noise_on_object(image, region, noise)[0] - image, region[:, None].float())
    assert torch.equal(p.noise_on_background(image, region, noise)[0] - image, (~region[:, None]).float())


@pytest.mark.parametrize("insert", [False, True])
def test_removal_curves_by_hand(insert):
    def predict(image):
        bright = 0.25 + 0.5 * image.mean(dim=(1, 2, 3))  # 0.75, 0.5, 0.25 with 2, 1, 0 pixels
        return torch.stack([1 - bright, bright], dim=1).log()

    image = torch.ones(1, 1, 1, 2)
    area = p.removal_curve(predict, image, torch.tensor([[[1.0, 0.0]]]), torch.tensor([1]), insert=insert, steps=2)
    # Either way the values are 0.75, 0.5, 0.25: (0.75 + 0.5) / 2 / 2 + (0.5 + 0.25) / 2 / 2 = 0.5.
    assert area.item() == pytest.approx(0.5)


def test_a_map_that_knows_has_a_small_deletion_and_a_large_insertion():
    # Only the top right of four pixels matters.
    def predict(image):
        seen = image[:, 0, 0, 1] > 0
        return torch.stack([(~seen) * 50.0, seen * 50.0], dim=1)

    image, target = torch.ones(2, 1, 2, 2), torch.tensor([1, 1])
    good, bad = torch.zeros(2, 2), torch.zeros(2, 2)
    good[0, 1], bad[1, 0], bad[0, 1] = 1, 1, -1
    maps = torch.stack([good, bad])
    # Deletion: the good map's values are 1, 0, 0, 0, 0 and the bad one's 1, 1, 1, 1, 0.
    assert p.removal_curve(predict, image, maps, target, insert=False, steps=4).tolist() == pytest.approx(
        [0.125, 0.875]
    )
    assert p.removal_curve(predict, image, maps, target, insert=True, steps=4).tolist() == pytest.approx([0.875, 0.125])


def test_equal_cells_of_a_map_are_removed_whole_and_not_from_the_top():
    image, kept = torch.ones(1, 1, 8, 8), []

    def predict(image):
        kept.append(image[0, 0].bool())
        return torch.zeros(1, 2)

    p.removal_curve(predict, image, torch.zeros(1, 4, 4), torch.tensor([0]), insert=True)
    first, kept[:] = list(kept), []
    p.removal_curve(predict, image, torch.zeros(1, 4, 4), torch.tensor([0]), insert=True)
    assert all(torch.equal(*pair) for pair in zip(first, kept, strict=True))  # the order was drawn once and for all
    cells = [k.reshape(4, 2, 4, 2).transpose(1, 2).flatten(2) for k in kept]
    assert all(
        (c.all(dim=2) == c.any(dim=2)).all() for c in cells
    )  # 16 steps, the default, for 16 cells: none is half there
    assert [int(c.all(dim=2).sum()) for c in cells] == list(range(17))
    rows = kept[8].reshape(4, 16).any(dim=1)
    assert rows.sum() > 2  # the first eight cells are not the upper half


def test_a_coarse_map_of_a_wide_image_is_not_transposed():
    def predict(image):  # the top right of 2 x 4 pixels alone matters
        seen = image[:, 0, 0, 3] > 0
        return torch.stack([(~seen) * 50.0, seen * 50.0], dim=1)

    # Upsampled, the map (0, 1) rises from column to column, so a quarter of the pixels is the last column:
    # deleting it first leaves 1, 0, 0, 0, 0. The map (1, 0) keeps it to the end: 1, 1, 1, 1, 0.
    image, maps = torch.ones(2, 1, 2, 4), torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]])
    areas = p.removal_curve(predict, image, maps, torch.tensor([1, 1]), insert=False, steps=4)
    assert areas.tolist() == pytest.approx([0.125, 0.875])
