"""FLOP formulas against published numbers, and the measured peak."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ofa.flops import encoder_flops, forward_flops, head_flops, mean_length, measure_peak_flops, train_flops
from ofa.models.adapters import Shape

BASE = Shape(layers=12, hidden=768, intermediate=3072, heads=12, vocab=30528, embedding=768, ffn_matrices=2)
LARGE = Shape(layers=24, hidden=1024, intermediate=4096, heads=16, vocab=30528, embedding=1024, ffn_matrices=2)


@pytest.mark.parametrize(
    ("sizes", "length", "plain", "distilled", "everywhere"),
    [
        (BASE, 128, 545, 727, 891),
        (BASE, 512, 588, 784, 947),
        (LARGE, 128, 1879, 2505, 2725),
        (LARGE, 512, 1992, 2656, 2876),
    ],
)
def test_megaflops_per_token_are_those_of_the_cost_table(sizes, length, plain, distilled, everywhere):
    """PERF-1, PERF-2: 15 % predicted, with a teacher of the same size, and with every token distilled."""
    assert train_flops(sizes, length, 0.15) / 1e6 == pytest.approx(plain, abs=0.6)
    assert train_flops(sizes, length, 0.15, sizes) / 1e6 == pytest.approx(distilled, abs=0.6)
    assert train_flops(sizes, length, 0.15, sizes, 1.0) / 1e6 == pytest.approx(everywhere, abs=0.6)


def test_parts_add_up_to_the_forward():
    assert forward_flops(BASE, 128, 0.15) == encoder_flops(BASE, 128) + 0.15 * head_flops(BASE)


def test_a_teacher_of_another_size_adds_its_own_forward():
    """PERF-2"""
    difference = train_flops(BASE, 512, 0.15, LARGE) - train_flops(BASE, 512, 0.15)
    assert difference == pytest.approx(forward_flops(LARGE, 512, 0.15))


def test_positions_distilled_without_a_teacher_cost_nothing():
    """PERF-35"""
    assert train_flops(BASE, 128, 0.15, None, 1.0) == train_flops(BASE, 128, 0.15)


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=5))
def test_the_mean_length_weighs_segments_by_their_tokens(rows):
    documents = torch.zeros(len(rows), 36, dtype=torch.int64)
    for row, lengths in enumerate(rows):
        numbers = torch.repeat_interleave(torch.arange(1, len(lengths) + 1), torch.tensor(lengths))
        documents[row, : len(numbers)] = numbers
    flat = [length for lengths in rows for length in lengths]
    assert mean_length(documents) == pytest.approx(sum(s * s for s in flat) / sum(flat))


def test_attention_flops_of_a_packed_row_are_those_of_its_segments():
    documents = torch.tensor([[1] * 10 + [2] * 30 + [0] * 8])
    packed = 40 * encoder_flops(BASE, mean_length(documents))
    assert packed == pytest.approx(10 * encoder_flops(BASE, 10) + 30 * encoder_flops(BASE, 30))


def test_the_peak_of_this_machine_is_a_plausible_rate():
    rate = measure_peak_flops("cpu", torch.float32, seconds=0.05)
    assert 1e8 < rate < 1e15
