import math

import numpy as np
import pytest
import torch

from aimbench.data.regions import boxes_to_region
from aimbench.errors import DataError
from aimbench.metrics.epg import (
    centre_gaussian,
    energy_pointing_game,
    epg_score,
    uniform_reference,
)
from aimbench.metrics.groups import split_metrics
from aimbench.metrics.statistics import bootstrap_mean_interval


def test_non_square_map_by_hand():
    # 2 rows, 3 columns. Energy 1 + 3 + 4 = 8, of which the right column holds 3 + 4; the -9 is dropped.
    attribution = torch.tensor([[[1.0, 0.0, 3.0], [0.0, -9.0, 4.0]]])
    right_column = torch.tensor([[[0, 0, 1], [0, 0, 1]]])
    bottom_row = torch.tensor([[[0, 0, 0], [1, 1, 1]]])
    assert energy_pointing_game(attribution, right_column)[0].item() == pytest.approx(7 / 8)
    assert energy_pointing_game(attribution, bottom_row)[0].item() == pytest.approx(4 / 8)


def test_box_at_the_top_right_of_a_wide_image_is_not_transposed():
    # Only the top right of a 2 x 4 feature map is hot; the box lies there in an image of 40 x 80.
    attribution = torch.zeros(1, 2, 4)
    attribution[0, 0, 3] = 1.0
    top_right = boxes_to_region(torch.tensor([[50.0, 0.0, 80.0, 30.0]]), (40, 80))[None]
    bottom_left = boxes_to_region(torch.tensor([[0.0, 30.0, 30.0, 40.0]]), (40, 80))[None]
    # By hand: a bilinear tent reaches 1 from the hot cell's centre (row 10, column 70) to 0 one cell
    # (20 pixels) away, constant towards the border. Rows 0-9: 1, then 1 - (r + 0.5 - 10) / 20 to row 29;
    # so no energy lies below row 30 or left of column 50.
    assert energy_pointing_game(attribution, top_right)[0].item() == pytest.approx(1.0)
    assert energy_pointing_game(attribution, bottom_left)[0].item() == 0.0


def test_upsampling_is_bilinear_without_aligned_corners():
    # 2 columns become 4: by hand (1, 0) -> (1, 0.75, 0.25, 0); aligned corners would give (1, 2/3, 1/3, 0).
    region = torch.tensor([[[True, True, False, False]]])
    score, _ = energy_pointing_game(torch.tensor([[[1.0, 0.0]]]), region)
    assert score.item() == pytest.approx(1.75 / 2)
    # The positive part is taken first: upsampling (1, -1) first would give 1.5 / 1.5.
    score, _ = energy_pointing_game(torch.tensor([[[1.0, -1.0]]]), region)
    assert score.item() == pytest.approx(1.75 / 2)


def test_soft_region_weighs_energy():
    score, _ = energy_pointing_game(torch.ones(1, 1, 2), torch.tensor([[[0.5, 0.25]]]))
    assert score.item() == pytest.approx(0.375)


def test_score_does_not_depend_on_the_scale_of_the_map():
    torch.manual_seed(0)
    attribution, region = torch.randn(3, 5, 7), torch.rand(3, 20, 28) > 0.5
    small, _ = energy_pointing_game(1e-4 * attribution, region)
    torch.testing.assert_close(small, energy_pointing_game(1e4 * attribution, region)[0])


def test_no_positive_energy_scores_zero_and_is_counted():
    attribution = torch.stack([-torch.ones(2, 2), torch.full((2, 2), 2e-8), torch.full((2, 2), 5e-8)])
    scores, undefined = energy_pointing_game(attribution, torch.ones(3, 2, 2))
    assert scores.tolist() == [0.0, 0.0, pytest.approx(1.0)]
    assert undefined.tolist() == [True, True, False]


def test_empty_region_is_no_ground_truth():
    scores, undefined = energy_pointing_game(torch.zeros(1, 2, 2), torch.zeros(1, 4, 4))
    assert math.isnan(scores.item())
    assert undefined.tolist() == [False]


def test_half_precision_is_summed_in_single():
    score, _ = energy_pointing_game(torch.ones(1, 300, 300, dtype=torch.bfloat16), torch.ones(1, 300, 300) > 0)
    assert score.item() == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_undefined_attribution_names_the_sample(bad):
    attribution = torch.ones(3, 2, 2)
    attribution[1, 0, 1] = bad
    with pytest.raises(DataError, match="sample 1 of the batch is NaN or infinite"):
        energy_pointing_game(attribution, torch.ones(3, 2, 2))


def test_energy_beyond_single_precision_is_no_missing_ground_truth():
    with pytest.raises(DataError, match="energy of sample 1 of the batch exceeds"):
        energy_pointing_game(torch.tensor([1.0, 3e38]).reshape(2, 1, 1).expand(2, 2, 2), torch.ones(2, 2, 2))


@pytest.mark.parametrize(
    ("attribution", "region", "message"),
    [
        (torch.ones(2, 4, 4), torch.ones(3, 4, 4), "one region for each"),
        (torch.ones(2, 1, 4, 4), torch.ones(2, 4, 4), r"give \(N, H, W\)"),
        (torch.ones(1, 8, 4), torch.ones(1, 4, 8), "larger than its region"),
        (torch.ones(1, 4, 4), 255 * torch.ones(1, 4, 4, dtype=torch.uint8), "divide 8-bit masks by 255"),
    ],
)
def test_bad_shapes_and_ranges(attribution, region, message):
    with pytest.raises(DataError, match=message):
        energy_pointing_game(attribution, region)


def test_uniform_map_scores_the_uniform_reference():
    torch.manual_seed(0)
    region = torch.rand(4, 9, 13) > 0.7
    scores, _ = energy_pointing_game(torch.ones(4, 3, 2), region)
    torch.testing.assert_close(uniform_reference(region), scores)
    assert uniform_reference(torch.zeros(1, 2, 2)).isnan().all()


def test_centre_gaussian():
    gaussian = centre_gaussian(5, 8)
    assert gaussian.shape == (5, 8)
    torch.testing.assert_close(gaussian, gaussian.flip(0).flip(1))
    assert gaussian[2].argmax() in (3, 4)
    # One standard deviation (a quarter of the side) from the centre: row centre 0.5 + 0.25 = 0.75 of 2 rows.
    assert centre_gaussian(2, 1)[1, 0].item() == pytest.approx(math.exp(-0.5))


def test_boxes_become_their_union():
    boxes = torch.tensor([[1.0, 0.0, 3.0, 2.0], [2.0, 1.0, 9.0, 2.0]])
    expected = torch.tensor([[0, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    assert torch.equal(boxes_to_region(boxes, (3, 5)), expected)


def test_fractional_box_covers_the_pixels_whose_centre_it_holds():
    assert boxes_to_region(torch.tensor([[0.6, 0.0, 2.5, 1.0]]), (1, 4)).tolist() == [[False, True, False, False]]


def test_no_box_is_an_empty_region():
    assert not boxes_to_region(torch.zeros(0, 4), (3, 5)).any()


@pytest.mark.parametrize("boxes", [torch.zeros(4), torch.tensor([[3.0, 0.0, 1.0, 2.0]])])
def test_bad_boxes(boxes):
    with pytest.raises(DataError, match="box"):
        boxes_to_region(boxes, (3, 5))


# Six samples whose scores are chosen: the left share of the energy is 0.1 ... 0.5, the last has no region.
LEFT = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.9])
MAPS = torch.stack([LEFT, 1 - LEFT], dim=1)[:, None, :]
REGIONS = torch.tensor([[[1.0, 0.0]]] * 5 + [[[0.0, 0.0]]])
CORRECT = torch.tensor([True, True, False, False, False, True])
GROUP = torch.tensor([0, 0, 0, 2, 2, 1])


def test_epg_score_of_six_samples():
    scores, undefined = energy_pointing_game(MAPS, REGIONS)
    record = epg_score(scores, undefined, CORRECT, GROUP, ["a", "b", "c"], seed=0)
    assert record.value == pytest.approx(0.3)
    assert record.correct == pytest.approx(0.15)
    assert record.incorrect == pytest.approx(0.4)
    assert record.groups == pytest.approx({"a": 0.2, "c": 0.45})
    assert (record.n, record.undefined) == (5, 0)
    assert 0.1 <= record.low < 0.3 < record.high <= 0.5


def test_epg_score_without_groups_or_errors():
    record = epg_score(np.array([0.5, 0.0]), np.array([False, True]), np.array([True, True]), None, [], 0)
    assert (record.correct, record.incorrect, record.groups, record.undefined) == (0.25, None, {}, 1)


def test_the_interval_of_epg_is_that_of_the_draws_and_the_seed_asked_for():
    scores = np.random.default_rng(0).random(30)
    flags = np.zeros(30, dtype=bool)
    default = epg_score(scores, flags, ~flags, None, [], 0)
    assert (default.low, default.high) == bootstrap_mean_interval(scores, samples=1000, seed=0)
    other = epg_score(scores, flags, ~flags, None, [], 3, bootstrap_samples=50)
    assert (other.low, other.high) == bootstrap_mean_interval(scores, samples=50, seed=3) != (default.low, default.high)


def test_a_sample_without_ground_truth_is_not_counted_as_undefined():
    record = epg_score([math.nan, 0.5, 0.0], [True, False, True], [True, True, False], None, [], 0)
    assert (record.n, record.undefined, record.correct, record.incorrect) == (2, 1, 0.5, 0.0)


def test_epg_score_refuses_what_it_cannot_score():
    with pytest.raises(DataError, match="no sample has ground truth"):
        epg_score([math.nan], [False], [True], None, [], 0)
    with pytest.raises(DataError, match="correct has shape"):
        epg_score([0.5, 0.5], [False, False], [True], None, [], 0)


def test_ten_images_on_paper():
    """EPG, accuracy and worst-group accuracy of ten images of 2 x 4 pixels, worked out by hand."""
    # Maps: energy a in the left half (columns 0, 1) and b in the right half, written as (a, b); objects left or right.
    energy = [(3, 1), (1, 3), (1, 1), (4, 0), (0, 4), (2, 6), (6, 2), (1, 4), (0, 0), (5, 5)]
    left = [True, True, True, True, True, False, False, False, False, None]
    maps = torch.tensor([[[a / 4, a / 4, b / 4, b / 4]] * 2 for a, b in energy], dtype=torch.float32)
    maps[8] = -1  # no positive energy: 0, and counted
    regions = torch.zeros(10, 2, 4)
    for i, side in enumerate(left):
        if side is not None:  # the tenth has no ground truth
            regions[i, :, :2] = float(side)
            regions[i, :, 2:] = float(not side)
    label = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    prediction = torch.tensor([0, 1, 0, 0, 1, 1, 0, 1, 1, 1])
    group = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3, 3])
    scores = [0.75, 0.25, 0.5, 1.0, 0.0, 0.75, 0.25, 0.8, 0.0]
    found, undefined = energy_pointing_game(maps, regions)
    assert found[:9].tolist() == pytest.approx(scores)
    assert found[9].isnan()
    assert undefined.tolist() == [False] * 8 + [True, False]
    names = ["a", "b", "c", "d"]
    record = epg_score(found, undefined, label == prediction, group, names, seed=0)
    # Sum of the nine scores is 4.3. Right with ground truth: images 0, 2, 3, 5, 7, 8 (3.8 of 6); wrong: 1, 4, 6 (0.5).
    assert record.value == pytest.approx(4.3 / 9)
    assert record.correct == pytest.approx(3.8 / 6)
    assert record.incorrect == pytest.approx(0.5 / 3)
    assert record.groups == pytest.approx({"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.4})
    assert (record.n, record.undefined) == (9, 1)
    # Groups have 2 of 3, 1 of 2, 1 of 2 and 3 of 3 right: 7 of 10, the worst 1/2.
    metrics = split_metrics(label.numpy(), prediction.numpy(), group.numpy(), 2, names, None)
    assert metrics.accuracy.value == pytest.approx(0.7)
    assert metrics.worst_group_accuracy.value == pytest.approx(0.5)
    assert metrics.worst_group == "b"
    assert uniform_reference(regions[:9]).tolist() == [0.5] * 9
