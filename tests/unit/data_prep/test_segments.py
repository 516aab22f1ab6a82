"""Segments of both modes."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.pack import pack
from data_prep.segments import Encoded, Frame, PairBuilder, sentence_segments

CLS, SEP = 1, 2


def document(lengths: list[int], first: int = 10) -> Encoded:
    """Sentences of these lengths, whose tokens count up from `first`."""
    ends = list(itertools.accumulate(lengths))
    return Encoded(np.arange(first, first + ends[-1], dtype=np.uint32), ends)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(5, 30), st.booleans())
def test_every_token_stands_in_exactly_one_segment_in_order(lengths, longest, cut):
    frame = Frame(longest, CLS, SEP)
    segments = [segment.tokens.tolist() for segment in sentence_segments(document(lengths), frame, cut=cut)]
    assert [token for segment in segments for token in segment if token > SEP] == list(range(10, 10 + sum(lengths)))
    for segment in segments:
        assert len(segment) <= longest and segment[0] == CLS and segment[-1] == SEP
        assert segment.count(CLS) == 1 and (SEP, SEP) not in itertools.pairwise(segment)


def test_close_ends_a_segment_before_the_sentence_that_overflows_it():
    frame = Frame(10, CLS, SEP)
    segments = [segment.tokens.tolist() for segment in sentence_segments(document([3, 3, 3, 4]), frame, cut=False)]
    assert segments == [[1, 10, 11, 12, 2, 13, 14, 15, 2], [1, 16, 17, 18, 2, 19, 20, 21, 22, 2]]


def test_cut_fills_the_segment_with_its_beginning():
    frame = Frame(10, CLS, SEP)
    segments = [segment.tokens.tolist() for segment in sentence_segments(document([3, 2, 3, 4]), frame, cut=True)]
    assert segments[0] == [1, 10, 11, 12, 2, 13, 14, 2, 15, 2]
    assert segments[1][:4] == [1, 16, 17, 2]


def corpus(count: int, seed: int = 0) -> list[Encoded]:
    """Documents of 1 to 40 sentences; the thousands of a token are its document."""
    draw = random.Random(seed)
    return [
        document([draw.randint(1, 40) for _ in range(draw.choice([1, 2, 5, 20, 40]))], first=(number + 1) * 10_000)
        for number in range(count)
    ]


def owners(tokens: np.ndarray) -> set[int]:
    """The documents that tokens come from."""
    return set((tokens // 10_000).tolist())


def all_pairs(documents: list[Encoded], length: int = 128, short: float = 0.1, seed: str = "s"):
    """Every segment by document, and the counts."""
    builder = PairBuilder(documents, Frame(length, CLS, SEP), short, seed)
    return [list(builder.segments(index)) for index in range(len(documents))], builder.counts


def test_pairs_are_framed_labelled_and_from_the_right_documents():
    """OFA-26: at most S tokens incl. 3 specials, B marked by its offset, a random B never from A's document."""
    pairs, _ = all_pairs(corpus(300))
    labels = Counter()
    for index, segments in enumerate(pairs):
        for segment in segments:
            tokens, second = np.asarray(segment.tokens), segment.second
            assert len(tokens) <= 128 and tokens[0] == CLS and tokens[second - 1] == SEP and tokens[-1] == SEP
            a, b = tokens[1 : second - 1], tokens[second:-1]
            assert len(a) and len(b) and not {CLS, SEP} & {*a.tolist(), *b.tolist()}
            assert owners(a) == {index + 1}
            assert len(owners(b)) == 1 and (owners(b) == owners(a)) == (segment.label == 0)
            assert (np.diff(a.astype(int)) == 1).all() and (np.diff(b.astype(int)) == 1).all()
            if segment.label == 0:
                assert b[0] > a[-1]
            labels[segment.label] += 1
    assert labels[0] > 100 and labels[1] > 100


def test_half_of_the_pairs_that_have_a_choice_are_random():
    """OFA-26: P(random next) = .5 where the chunk has two sentences or more; one-sentence chunks always are."""
    documents = [document([10] * 60, first=(number + 1) * 10_000) for number in range(400)]
    pairs, counts = all_pairs(documents, length=64, short=0.0)
    total = sum(map(len, pairs))
    # documents end in a chunk of one sentence now and then, which is random by force
    last_alone = sum(
        segments[-1].label == 1 and np.asarray(segments[-1].tokens)[1] % 10_000 == 590 for segments in pairs
    )
    share = (counts["random_pairs"] - last_alone) / (total - last_alone)
    assert counts["pairs"] == total > 3000
    assert share == pytest.approx(0.5, abs=4 * 0.5 / total**0.5)
    single, single_counts = all_pairs([document([30], first=(n + 1) * 10_000) for n in range(50)])
    assert single_counts["random_pairs"] == sum(map(len, single)) == 50


def test_a_tenth_of_the_documents_gets_a_short_target():
    """OFA-26: short-sequence rate .1, drawn once a document."""
    documents = [document([5] * 100, first=(number + 1) * 10_000) for number in range(1000)]
    pairs, counts = all_pairs(documents)
    assert counts["short_documents"] == pytest.approx(100, abs=40)
    # BERT's target is a lower bound: pairs of ordinary documents, but the last of each, are nearly full
    lengths = [[len(segment.tokens) for segment in segments[:-2]] for segments in pairs]
    short = sum(bool(each) and np.median(each) < 115 for each in lengths)
    assert 40 <= short <= counts["short_documents"]


def test_unused_sentences_are_put_back():
    documents = corpus(40)
    pairs, counts = all_pairs(documents, length=512, short=0.0)
    for index, segments in enumerate(pairs):
        own = [
            token
            for segment in segments
            for token in np.asarray(segment.tokens).tolist()
            if token // 10_000 == index + 1
        ]
        assert len(own) == len(set(own))
    used = sum(
        token // 10_000 == index + 1
        for index, segments in enumerate(pairs)
        for segment in segments
        for token in np.asarray(segment.tokens).tolist()
    )
    assert used >= sum(len(one.tokens) for one in documents) - counts["tokens_truncated"]


def test_without_another_document_the_actual_next_serves():
    """OFA-26: a shard with one document falls back instead of failing, and calls no pair random."""
    (segments,), counts = all_pairs([document([6, 7, 8, 9] * 10)])
    assert segments and counts["random_pairs"] == 0
    (only,), _ = all_pairs([document([9])])
    assert [segment.tokens.tolist() for segment in only] == [[1, 10, 11, 12, 13, 2, 14, 15, 16, 17, 18, 2]]
    (nothing,), counts = all_pairs([document([1])])
    assert nothing == [] and counts["tokens_unpaired"] == 1


def test_pairs_depend_on_the_seed_alone():
    documents = corpus(30)
    first, again, other = (all_pairs(documents, seed=seed)[0] for seed in ("a", "a", "b"))
    as_lists = [[[s.tokens.tolist() for s in segments] for segments in pairs] for pairs in (first, again, other)]
    assert as_lists[0] == as_lists[1] != as_lists[2]


def test_packed_sentences_of_long_documents_leave_a_hundredth_empty():
    """PERF-14: with `cut`, rows are at least 99 % full whatever the documents' lengths; `close` cannot do it."""
    draw = random.Random(1)
    documents = [document([max(1, int(draw.gauss(25, 12))) for _ in range(draw.randint(1, 200))]) for _ in range(300)]

    def fill(cut: bool) -> float:
        frame = Frame(128, CLS, SEP)
        lengths = [len(s.tokens) for one in documents for s in sentence_segments(one, frame, cut=cut)]
        return sum(lengths) / (len(pack(lengths, 128)) * 128)

    assert fill(cut=True) >= 0.99 > 0.95 > fill(cut=False)
