import json
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from aimbench.errors import DataError
from aimbench.metrics.health import MaskHealth
from aimbench.metrics.health_words import warnings


def health(mask, region=None, name="stage3"):
    measured = MaskHealth()
    measured.update({name: mask}, region)
    return measured.compute()


def test_four_masks_on_paper():
    # Masks of 1 x 2: open, closed, left, left. The object is the left half of the image, 2 x 4 pixels.
    mask = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])[:, None, None, :]
    region = torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 2).expand(4, 2, 4)
    # Left position: active in 3 of 4, variance 3/16; right: 1 of 4, variance 3/16.
    assert health(mask, region) == pytest.approx(
        {
            "stage3_active": 0.5,
            "stage3_all_open": 0.25,
            "stage3_all_closed": 0.25,
            "stage3_variance": 3 / 16,
            "stage3_inside": 3 / 4,
            "object_share": 0.5,
        }
    )


def test_variance_agrees_with_torch():
    torch.manual_seed(0)
    mask = (torch.rand(50, 1, 5, 7) > 0.6).float()
    assert health(mask)["stage3_variance"] == pytest.approx(mask.var(dim=0, correction=0).mean().item())


def test_batches_add_up():
    masks, region = _random_masks()
    region[3] = False
    whole, parts = MaskHealth(), MaskHealth()
    whole.update(masks, region)
    for batch in (slice(0, 2), slice(2, 9)):
        parts.update({name: mask[batch] for name, mask in masks.items()}, region[batch])
    assert len(whole.compute()) == 11
    assert parts.compute() == pytest.approx(whole.compute())


def _random_masks():
    generator = torch.Generator().manual_seed(0)
    masks = {f"stage{s}": (torch.rand(9, 1, 4 * s, 6, generator=generator) > 0.5).float() for s in (2, 3)}
    return masks, torch.rand(9, 48, 48, generator=generator) > 0.8


def _measure_share(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    masks, region = _random_masks()
    batch = slice(0, 2) if rank == 0 else slice(2, 9)
    measured = MaskHealth()
    measured.update({name: mask[batch] for name, mask in masks.items()}, region[batch])
    Path(folder, f"rank{rank}.json").write_text(json.dumps(measured.compute()))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_add_up(tmp_path):
    multiprocessing.spawn(_measure_share, args=(str(tmp_path),), nprocs=2)
    alone = MaskHealth()
    alone.update(*_random_masks())
    for rank in range(2):
        measured = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert measured == pytest.approx(alone.compute())


def test_inside_skips_samples_without_ground_truth():
    mask = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 1.0]]]])
    region = torch.tensor([[[True, False]], [[False, False]]])
    values = health(mask, region)
    assert values["stage3_inside"] == 1.0
    assert values["object_share"] == 0.5


def test_nothing_undefined_is_reported():
    values = health(torch.zeros(1, 1, 2, 2), torch.ones(1, 4, 4))
    assert "stage3_inside" not in values  # no active area to ask about
    assert "stage3_variance" not in values  # one sample
    assert "object_share" not in health(torch.ones(2, 1, 2, 2))
    assert MaskHealth().compute() == {}


def test_inside_of_a_mask_that_the_image_does_not_divide():
    # 3 mask columns over 7 pixels: the open mask's inside must still be the object's share of the image.
    region = torch.zeros(1, 7, 7)
    region[:, :, :3] = 1
    assert health(torch.ones(1, 1, 7, 3), region)["stage3_inside"] == pytest.approx(3 / 7)


def test_sizes_must_agree():
    measured = MaskHealth()
    measured.update({"stage3": torch.ones(1, 1, 2, 2)})
    with pytest.raises(DataError, match="evaluate at one resolution"):
        measured.update({"stage3": torch.ones(1, 1, 3, 2)})
    with pytest.raises(DataError, match=r"not \(N, 1, h, w\)"):
        measured.update({"stage2": torch.ones(1, 2, 2)})


def test_warnings_in_plain_words():
    torch.manual_seed(0)
    fixed = torch.zeros(8, 1, 4, 4)
    fixed[:, :, 1:3, 1:3] = 1
    seeing = (torch.rand(8, 1, 4, 4) > 0.7).float()
    sometimes_closed = seeing.clone()
    sometimes_closed[0] = 0
    cases = {
        "hides nothing": torch.ones(8, 1, 4, 4),
        "closed everywhere for 100%": torch.zeros(8, 1, 4, 4),
        "closed everywhere for 12%": sometimes_closed,
        "ignores the image": fixed,
    }
    for words, mask in cases.items():
        (message,) = warnings(health(mask))
        assert words in message
        assert message.startswith("stage3: ")
    assert warnings(health(seeing)) == []


def test_warnings_name_the_stage_at_fault():
    torch.manual_seed(0)
    measured = MaskHealth()
    measured.update({"stage2": torch.ones(4, 1, 8, 8), "stage3": (torch.rand(4, 1, 4, 4) > 0.5).float()})
    (message,) = warnings(measured.compute())
    assert message.startswith("stage2: ")
