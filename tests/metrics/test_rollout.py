import pytest
import torch

from aimbench.errors import DataError
from aimbench.metrics.rollout import attention_rollout


def test_two_blocks_by_hand():
    # Two tokens. Block 1 copies token 1 into token 0; block 2 mixes both evenly into token 0.
    first = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    second = torch.tensor([[[[0.5, 0.5], [1.0, 0.0]]]])
    # Half attention, half residual: [[.5, .5], [0, 1]], then [[.75, .25], [.5, .5]]; their product by hand:
    # row 0: .75 * [.5, .5] + .25 * [0, 1] = [.375, .625]; row 1: .5 * [.5, .5] + .5 * [0, 1] = [.25, .75].
    assert attention_rollout([first, second], class_token=True).tolist() == [[0.375, 0.625]]
    assert attention_rollout([first, second], class_token=False).tolist() == [[0.3125, 0.6875]]


def test_heads_are_averaged_and_shares_sum_to_one():
    torch.manual_seed(0)
    heads = torch.rand(3, 4, 5, 5).softmax(dim=-1)
    mean = heads.mean(dim=1, keepdim=True)
    share = attention_rollout([heads, heads], class_token=True)
    torch.testing.assert_close(share, attention_rollout([mean, mean], class_token=True))
    torch.testing.assert_close(share.sum(dim=1), torch.ones(3))


@pytest.mark.parametrize(
    ("attentions", "message"),
    [
        ([], "at least one block"),
        ([torch.ones(1, 2, 3)], "at least one block"),
        ([torch.ones(1, 1, 2, 2), torch.ones(1, 1, 3, 3)], "blocks differ"),
    ],
)
def test_bad_attentions(attentions, message):
    with pytest.raises(DataError, match=message):
        attention_rollout(attentions, class_token=True)
