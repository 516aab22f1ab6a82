"""The k-th smallest key of many groups, by counting digits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.pruning import kth
from ofa.pruning.kth import kth_smallest, sort_keys

numbers = st.integers(0, 0x7F7FFFFF + 1)
close = st.integers(1000, 1010)
CPU = torch.device("cpu")


def find(keys, group_of, wanted, sizes=None, device=CPU):
    """(key, ties, not_finite) on one rank."""
    sizes = sizes or [sum(len(k) for k, g in zip(keys, group_of, strict=True) if g == i) for i in range(len(wanted))]
    tensors = [torch.tensor(k, dtype=torch.int32, device=device) for k in keys]
    found = kth_smallest(tensors, group_of, wanted, sizes=sizes, sum_over_ranks=lambda counts: None, device=device)
    return found.key.tolist(), found.ties.tolist(), int(found.not_finite)


@settings(deadline=None)
@given(st.data(), st.sampled_from([numbers, close, st.one_of(numbers, close)]))
def test_thresholds_of_many_groups_equal_those_of_sorted_lists(data, values):
    """OFA-6"""
    keys = data.draw(st.lists(st.lists(values, max_size=30), min_size=1, max_size=6))
    group_of = [data.draw(st.integers(0, 2)) for _ in keys]
    ordered = [sorted(v for k, g in zip(keys, group_of, strict=True) if g == i for v in k) for i in range(3)]
    wanted = [data.draw(st.integers(0, len(some))) for some in ordered]
    found, ties, _ = find(keys, group_of, wanted)
    for some, count, key, tied in zip(ordered, wanted, found, ties, strict=True):
        if count:
            assert key == some[count - 1]
            assert tied == count - sum(value < key for value in some)
        else:
            assert (key, tied) == (0, 0)


@pytest.mark.parametrize("piece", [1, 3, 64])
def test_keys_that_are_counted_in_pieces_give_the_same(monkeypatch, piece):
    keys = torch.randint(0, 2**30, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    expected = find([keys], [0], [120])
    monkeypatch.setattr(kth, "piece_size", lambda device: piece)
    assert find([keys], [0], [120]) == expected == ([sorted(keys)[119]], [1], 0)


def test_groups_beyond_two_to_the_31_are_counted_in_int64():
    types = []
    keys = [torch.zeros(3, dtype=torch.int32)]
    for size in (2**31 - 1, 2**31):
        kth_smallest(keys, [0], [1], sizes=[size], sum_over_ranks=lambda counts: types.append(counts.dtype), device=CPU)
    assert types == [torch.int32] * 3 + [torch.int64] * 3


def test_a_rank_without_keys_takes_part():
    calls = []
    kth_smallest([], [], [0, 0], sizes=[5, 5], sum_over_ranks=lambda counts: calls.append(counts.shape), device=CPU)
    assert [tuple(shape) for shape in calls] == [(2, 2048), (2, 1024), (2, 1024)]


@given(st.lists(st.floats(0, width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=50))
def test_keys_are_ordered_like_scores(scores):
    keys = sort_keys(torch.tensor(scores, dtype=torch.float32))
    values = torch.tensor(scores, dtype=torch.float32)
    assert torch.equal(keys.unsqueeze(0) < keys.unsqueeze(1), values.unsqueeze(0) < values.unsqueeze(1))
    assert (keys >= 1).all() and (keys <= 0x7F800000).all()


def test_what_is_gone_has_the_smallest_key_and_what_is_not_finite_is_counted():
    assert sort_keys(torch.tensor([-1.0, -0.0, 0.0])).tolist() == [0, 0, 1]
    scores = torch.tensor([-1.0, 0.0, 1.0, float("inf"), float("nan")])
    scores = torch.cat([scores, torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)])
    keys = sort_keys(scores)
    assert keys[0] == 0 and keys[1] == 1 and (keys.diff()[:4] > 0).all()
    assert find([keys.tolist()], [0], [1])[2] == 3


@pytest.mark.gpu
@pytest.mark.parametrize("piece", [1000, 2**24])
def test_a_gpu_counts_what_the_cpu_counts(monkeypatch, piece):
    """OFA-6: another histogram runs there."""
    monkeypatch.setattr(kth, "piece_size", lambda device: piece)
    generator = torch.Generator().manual_seed(0)
    keys = [sort_keys(torch.randn(50_000, generator=generator).abs()).tolist() for _ in range(3)]
    keys.append([0, 1, 2047, 2048, 1023, 1024, 2**31 - 1] * 20)
    arguments = (keys, [0, 1, 0, 2], [90_001, 17, 77])
    assert find(*arguments, device=torch.device("cuda")) == find(*arguments)
