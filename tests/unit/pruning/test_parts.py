"""Who ranks what: strips, spans and the strips that a span's end cuts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ofa.pruning.parts import divide
from ofa.pruning.pruner import Span
from tests.selection import spans_of

SHAPES = {"a": torch.Size((4, 12)), "b": torch.Size((2, 6)), "c": torch.Size((1, 24))}


@given(
    st.lists(st.floats(0, 1), max_size=6),
    st.lists(st.integers(0, 3), min_size=1, max_size=8),
    st.sampled_from([1, 2, 3, 6, 12]),
)
def test_parts_cover_every_weight_once_in_order_and_cut_no_strip(cuts, owners, strip):
    spans = spans_of(SHAPES, cuts, owners, 4)
    division = divide(SHAPES, dict.fromkeys(SHAPES, strip), spans)
    covered = [(part.name, place) for part in division.parts for place in range(part.start, part.stop)]
    assert covered == [(name, place) for name, shape in SHAPES.items() for place in range(shape.numel())]
    assert all(part.start % strip == part.stop % strip == 0 for part in division.parts)


@given(
    st.lists(st.floats(0, 1), max_size=6),
    st.lists(st.integers(0, 3), min_size=1, max_size=8),
    st.sampled_from([1, 2, 3, 6, 12]),
)
def test_every_part_finds_its_own_weights(cuts, owners, strip):
    """Weights numbered through the scope, looked up the way a part says."""
    spans = spans_of(SHAPES, cuts, owners, 4)
    flat = {name: torch.arange(shape.numel()) for name, shape in SHAPES.items()}
    masters = [[flat[span.name][span.start : span.stop] for span in of_rank] for of_rank in spans]
    division = divide(SHAPES, dict.fromkeys(SHAPES, strip), spans)
    buffer = torch.full((division.buffer,), -1)
    for piece in division.pieces:
        assert (buffer[piece.offset : piece.offset + piece.length] == -1).all(), "two pieces in one place"
        source = masters[piece.rank][piece.span][piece.begin : piece.begin + piece.length]
        buffer[piece.offset : piece.offset + piece.length] = source
    for part in division.parts:
        source = buffer if part.span is None else masters[part.rank][part.span]
        assert torch.equal(
            source[part.offset : part.offset + part.stop - part.start], flat[part.name][part.start : part.stop]
        )


def test_a_cut_strip_belongs_to_the_rank_that_holds_its_first_weight():
    spans = [[Span("a", 0, 7)], [Span("a", 7, 11)], [Span("a", 11, 48)]]
    division = divide({"a": SHAPES["a"]}, {"a": 12}, spans)
    found = [(part.rank, part.start, part.stop, part.span) for part in division.parts]
    assert found == [(0, 0, 12, None), (2, 12, 48, 0)]
    assert [(piece.rank, piece.length) for piece in division.pieces] == [(0, 7), (1, 4), (2, 1)]
    assert division.buffer == 12


def test_single_weights_are_never_cut():
    division = divide(SHAPES, dict.fromkeys(SHAPES, 1), spans_of(SHAPES, [0.3, 0.31], [0, 1], 2))
    assert division.buffer == 0 and division.pieces == []


@pytest.mark.parametrize("spans", [[Span("a", 0, 47)], [Span("a", 0, 30), Span("a", 20, 48)], [Span("a", 1, 48)], []])
def test_spans_that_leave_weights_out_or_hold_them_twice_are_a_bug(spans):
    with pytest.raises(AssertionError, match="cover a exactly once"):
        divide({"a": SHAPES["a"]}, {"a": 1}, [spans])
