import pytest

from aimbench.needs import GroupCounts, unmet

WATERBIRDS = ["landbird on land", "landbird on water", "waterbird on land", "waterbird on water"]
# Waterbirds' official training groups, and those of its 100 % variant.
OFFICIAL = GroupCounts(2, WATERBIRDS, [3498, 184, 56, 1057], [467, 466, 133, 133])
PERFECT = GroupCounts(2, WATERBIRDS, [3694, 0, 0, 1101], [467, 466, 133, 133])
CLASSES = GroupCounts(3, ["a", "b", "c"], [5, 5, 5], [1, 1, 1])


@pytest.mark.parametrize("need", ["all_groups_in_train", "all_groups_in_val", "shared_places"])
def test_official_waterbirds_has_what_every_method_needs(need):
    assert unmet(need, OFFICIAL) is None


def test_empty_groups_are_named():
    assert unmet("all_groups_in_train", PERFECT) == (
        "groups 'landbird on water', 'waterbird on land' are without samples in train"
    )
    assert unmet("all_groups_in_val", PERFECT) is None
    assert unmet("all_groups_in_val", GroupCounts(1, ["a"], [1], [0])) == "group 'a' is without samples in val"


def test_places_that_tell_the_class_are_not_shared():
    assert unmet("shared_places", PERFECT) == "no place is seen with two classes in train"
    # One counterexample is enough.
    assert unmet("shared_places", GroupCounts(2, WATERBIRDS, [9, 1, 0, 9])) is None


def test_groups_that_are_classes_name_no_place():
    assert unmet("shared_places", CLASSES) == "its groups are not class x place"
    assert unmet("all_groups_in_train", CLASSES) is None


def test_unknown_counts_are_no_reason():
    assert unmet("all_groups_in_train", GroupCounts(2, WATERBIRDS)) is None
    assert unmet("shared_places", GroupCounts(2, WATERBIRDS)) is None
