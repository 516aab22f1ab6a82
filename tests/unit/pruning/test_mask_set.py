"""Masks held, counted, hashed and packed."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ofa import dist
from ofa.pruning.mask_set import MasksDiffer, MaskSet, check_agreement, pack, unpack
from tests.selection import Board, ThreadRank

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def random_keep(shape, seed=0):
    """A random boolean tensor."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.5


@given(SHAPES, st.integers(0, 1000))
def test_packing_round_trips(shape, seed):
    keep = random_keep(shape, seed)
    assert torch.equal(unpack(pack(keep), shape), keep)
    assert pack(keep).nbytes == -(-keep.numel() // 8)


def test_the_first_weight_is_in_the_highest_bit():
    assert pack(torch.tensor([True] + [False] * 8)).tolist() == [128, 0]


def test_a_hook_sees_masks_that_are_replaced_later():
    weight = nn.Parameter(torch.ones(4))
    masks = MaskSet({"w": weight.shape})
    masks.mask_gradients({"w": weight})
    churn = masks.replace({"w": torch.tensor([True, False, True, False])})
    (3 * weight).sum().backward()
    assert churn == (2, 0)
    assert weight.grad.tolist() == [3, 0, 3, 0]
    assert masks.replace({"w": torch.tensor([False, True, True, False])}) == (1, 1)


def test_the_hash_tells_masks_shapes_and_names_apart():
    shapes = {"a": torch.Size((4, 2)), "b": torch.Size((2,))}
    one, other = MaskSet(shapes), MaskSet(shapes)
    assert one.hash() == other.hash()
    other.replace({"a": random_keep((4, 2))})
    assert one.hash() != other.hash()
    assert one.hash() != MaskSet({"a": torch.Size((2, 4)), "b": shapes["b"]}).hash()


def test_saved_masks_come_back_and_those_of_another_model_are_refused():
    masks = MaskSet({"a": torch.Size((5, 3))})
    masks.replace({"a": random_keep((5, 3))})
    fresh = MaskSet({"a": torch.Size((5, 3))})
    fresh.load_packed(masks.packed())
    assert fresh.hash() == masks.hash()
    with pytest.raises(ValueError, match="another model.*first b"):
        MaskSet({"a": torch.Size((5, 3)), "b": torch.Size((2,))}).load_packed(masks.packed())
    assert isinstance(masks.packed()["a"], np.ndarray)


def agreement_of(masks):
    """What each of len(masks) ranks is told when they compare: an error's words, or None."""
    board = Board(len(masks))

    def one(number):
        try:
            check_agreement(masks[number], ThreadRank(number, board))
        except MasksDiffer as error:
            return str(error)

    with ThreadPoolExecutor(len(masks)) as threads:
        return list(threads.map(one, range(len(masks))))


def test_ranks_that_hold_different_masks_are_told_alike_which_tensor_and_who():
    """One bit of one tensor, on one rank."""
    shapes = {"a": torch.Size((4, 2)), "b": torch.Size((9, 3)), "c": torch.Size((2,))}
    masks = [MaskSet(shapes) for _ in range(3)]
    assert agreement_of(masks) == [None] * 3
    masks[1].keep["b"][8, 2] = False
    told = agreement_of(masks)
    assert len(set(told)) == 1 and "1 tensors" in told[0] and "first b: ranks 0, 2 against rank 1" in told[0]


def test_one_rank_agrees_with_itself():
    check_agreement(MaskSet({"a": torch.Size((2,))}), dist.ALONE)
