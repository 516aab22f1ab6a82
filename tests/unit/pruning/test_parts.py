"""Who ranks what: strips, spans and the strips that a span's end cuts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ofa.pruning.parts import divide
from ofa.pruning.pattern import make_pattern
from ofa.pruning.pruner import Span
from tests.selection import equal_spans, spans_of, weights_that_travel

SHAPES = {"a": torch.Size((4, 12)), "b": torch.Size((2, 6)), "c": torch.Size((1, 24))}
SIZES = {"query": (768, 768), "key": (768, 768), "value": (768, 768), "dense": (768, 768)}
SIZES |= {"intermediate": (3072, 768), "output": (768, 3072)}
BERT_BASE = {f"{i}.{name}": torch.Size(shape) for i in range(12) for name, shape in SIZES.items()}
BERT_BASE["pooler"] = torch.Size((768, 768))

cut_anywhere = given(
    st.lists(st.floats(0, 1), max_size=6),
    st.lists(st.integers(0, 3), min_size=1, max_size=8),
    st.sampled_from([1, 2, 3, 6, 12]),
)


@cut_anywhere
def test_parts_cover_every_weight_once_in_order_and_cut_no_strip(cuts, owners, strip):
    spans = spans_of(SHAPES, cuts, owners, 4)
    division = divide(SHAPES, dict.fromkeys(SHAPES, strip), spans)
    covered = [(part.name, place) for part in division.parts for place in range(part.start, part.stop)]
    assert covered == [(name, place) for name, shape in SHAPES.items() for place in range(shape.numel())]
    assert all(part.start % strip == part.stop % strip == 0 for part in division.parts)


@cut_anywhere
def test_every_part_finds_its_own_weights(cuts, owners, strip):
    """Weights numbered through the scope, looked up the way a part says."""
    spans = spans_of(SHAPES, cuts, owners, 4)
    flat = {name: torch.arange(shape.numel()) for name, shape in SHAPES.items()}
    masters = [[flat[span.name][span.start : span.stop] for span in of_rank] for of_rank in spans]
    division = divide(SHAPES, dict.fromkeys(SHAPES, strip), spans)
    buffers = put_together(division, masters)
    for part in division.parts:
        source = buffers[part.rank] if part.span is None else masters[part.rank][part.span]
        assert torch.equal(
            source[part.offset : part.offset + part.stop - part.start], flat[part.name][part.start : part.stop]
        )


def put_together(division, masters):
    """Every rank's buffer of cut strips, with every piece in its place."""
    buffers = [torch.full((size,), -1) for size in division.buffers]
    for (rank, owner), pieces in division.pieces.items():
        for piece in pieces:
            place = buffers[owner].narrow(0, piece.offset, piece.length)
            assert (place == -1).all(), "two pieces in one place"
            place.copy_(masters[rank][piece.span][piece.begin : piece.begin + piece.length])
    assert all((buffer >= 0).all() for buffer in buffers), "a place without a piece"
    return buffers


@cut_anywhere
def test_every_cut_strip_has_one_owner_and_a_place_of_its_own_in_the_owners_buffer(cuts, owners, strip):
    spans = spans_of(SHAPES, cuts, owners, 4)
    division = divide(SHAPES, dict.fromkeys(SHAPES, strip), spans)
    ends = {(span.name, span.stop // strip * strip) for of_rank in spans for span in of_rank if span.stop % strip}
    cut = [part for part in division.parts if part.span is None]
    assert sorted((part.name, part.start) for part in cut) == sorted(ends)
    for rank, of_rank in enumerate(spans):
        own = sorted((part for part in cut if part.rank == rank), key=lambda part: part.offset)
        assert [part.offset for part in own] == [strip * place for place in range(len(own))]
        assert division.buffers[rank] == strip * len(own)
        held = {(span.name, place) for span in of_rank for place in range(span.start, span.stop)}
        assert all((part.name, part.start) in held for part in own)


@cut_anywhere
def test_only_pieces_of_other_ranks_strips_travel(cuts, owners, strip):
    """Each weight once, from the rank that holds it to the one that holds its strip's first."""
    spans, strips = spans_of(SHAPES, cuts, owners, 4), dict.fromkeys(SHAPES, strip)
    division = divide(SHAPES, strips, spans)
    sent, received = weights_that_travel(SHAPES, strips, spans)
    assert traffic(division) == list(zip(sent, received, strict=True))
    assert division.travels == any(sent)
    assert all(division.sent(rank, rank) == [] for rank in range(4))
    kept = [sum(piece.length for piece in division.kept(rank)) for rank in range(4)]
    assert division.buffers == [own + came for own, came in zip(kept, received, strict=True)]


def traffic(division):
    """By rank: weights that it sends and that it receives."""
    ranks = range(len(division.buffers))
    moved = [[sum(piece.length for piece in division.sent(rank, owner)) for owner in ranks] for rank in ranks]
    return [(sum(moved[rank]), sum(of_rank[rank] for of_rank in moved)) for rank in ranks]


@pytest.mark.parametrize(
    ("kind", "ranks", "buffer", "most"),
    [("each", 5, 10.22, 7.5), ("each", 7, 10.22, 8.28), ("flat", 5, 0.0, 0.0), ("flat", 7, 0.38, 0.32)],
)
def test_a_rank_sends_and_receives_at_most_a_strip_for_an_end_of_a_span(kind, ranks, buffer, most):
    """PERF-9: MiB in a rank's buffer and through a rank, for blocks of 32x32 on BERT-base, counted without a weight.
    Five ranks cut all its tensors (40.9 MiB of strips) but not the flattened scope: that holds 145 * 768 * 768."""
    spans = equal_spans(kind, BERT_BASE, ranks)
    strips = {name: make_pattern("32x32").strip(shape) for name, shape in BERT_BASE.items()}
    division = divide(BERT_BASE, strips, spans)
    moved = traffic(division)
    for of_rank, size, (sent, received) in zip(spans, division.buffers, moved, strict=True):
        assert sent <= sum(strips[span.name] for span in of_rank if span.start % strips[span.name])
        assert received <= size <= sum(strips[span.name] for span in of_rank if span.stop % strips[span.name])
    assert round(4 * max(division.buffers) / 2**20, 2) == buffer
    assert round(4 * max(map(max, moved)) / 2**20, 2) == most
    assert division.travels == (most > 0)


def test_a_cut_strip_belongs_to_the_rank_that_holds_its_first_weight():
    spans = [[Span("a", 0, 7)], [Span("a", 7, 11)], [Span("a", 11, 48)]]
    division = divide({"a": SHAPES["a"]}, {"a": 12}, spans)
    found = [(part.rank, part.start, part.stop, part.span) for part in division.parts]
    assert found == [(0, 0, 12, None), (2, 12, 48, 0)]
    lengths = {ranks: [piece.length for piece in pieces] for ranks, pieces in division.pieces.items()}
    assert lengths == {(0, 0): [7], (1, 0): [4], (2, 0): [1]}
    assert division.buffers == [12, 0, 0]


def test_single_weights_are_never_cut():
    division = divide(SHAPES, dict.fromkeys(SHAPES, 1), spans_of(SHAPES, [0.3, 0.31], [0, 1], 2))
    assert division.buffers == [0, 0] and division.pieces == {} and not division.travels


@pytest.mark.parametrize("spans", [[Span("a", 0, 47)], [Span("a", 0, 30), Span("a", 20, 48)], [Span("a", 1, 48)], []])
def test_spans_that_leave_weights_out_or_hold_them_twice_are_a_bug(spans):
    with pytest.raises(AssertionError, match="cover a exactly once"):
        divide({"a": SHAPES["a"]}, {"a": 1}, [spans])
