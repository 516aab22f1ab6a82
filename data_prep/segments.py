"""Documents as token ids in, segments out: the two modes.

Both work on offsets into one flat array of a document's tokens, so a shard's worth of text fits in memory at two or
four bytes a token.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ofa.data.shards import Segment


@dataclass(frozen=True)
class Encoded:
    """A document's tokens and where its sentences end."""

    tokens: np.ndarray
    """[n] ids without special tokens."""
    ends: list[int]
    """Offsets of sentence ends, ascending, the last n; no sentence is empty."""


@dataclass(frozen=True)
class Frame:
    """What every segment is built with."""

    length: int
    """Most tokens of a segment, special ones included."""
    cls: int
    sep: int


def sentence_segments(document: Encoded, frame: Frame, *, cut: bool) -> Iterator[Segment]:
    """`[CLS] s1 [SEP] s2 [SEP] ...` from consecutive sentences; every token stands in exactly one segment.

    Args:
        cut: What happens to a sentence that overflows the segment. False, as Prune OFA does: the segment is closed
            before it, which leaves a hole that nothing fills where documents are long. True: its beginning fills the
            segment and its rest starts the next one. A sentence that no segment can hold is always cut.
    """
    dtype = document.tokens.dtype
    cls, sep = np.array([frame.cls], dtype), np.array([frame.sep], dtype)
    parts, used, start = [cls], 1, 0
    for end in document.ends:
        while used + end - start + 1 > frame.length:
            room = frame.length - used - 1
            if room > 0 and (cut or end - start > frame.length - 2):
                parts += [document.tokens[start : start + room], sep]
                start += room
            yield Segment(np.concatenate(parts))
            parts, used = [cls], 1
        parts += [document.tokens[start:end], sep]
        used += end - start + 1
        start = end
    yield Segment(np.concatenate(parts))


class PairBuilder:
    """Sentence pairs of BERT's `create_pretraining_data.py` (`segment_pair_nsp`, fact OFA-26).

    Sentences of a document are gathered until they reach a target length: `frame.length` - 3, or with
    `short_probability`, drawn once a document, a random shorter one. They are cut at a random sentence into A and B;
    half of the time, and always when there is one sentence only, B comes from a random place of another document
    instead, and the unused sentences are put back. Pairs that are too long lose tokens of the longer side, at a random
    end.

    Differences: the other document is drawn from all others of the same shard and half, never the same one (BERT tries
    ten times and then takes what it has); where there is no other, the actual next sentence serves, or the second half
    of the only one. Draws depend on the shard and the document's place in it, not on who does the work.
    """

    def __init__(self, documents: Sequence[Encoded], frame: Frame, short_probability: float, seed: str):
        self._documents = documents
        self._frame = frame
        self._longest = frame.length - 3
        self._short_probability = short_probability
        self._seed = seed
        self.counts: Counter[str] = Counter()
        """`pairs`, `random_pairs`, `short_documents`, `tokens_truncated`, `tokens_unpaired`."""

    def segments(self, index: int) -> Iterator[Segment]:
        """The pairs that start in document `index`."""
        document = self._documents[index]
        draw = random.Random(f"{self._seed}:{index}")
        target = self._longest
        if draw.random() < self._short_probability:
            target = draw.randint(2, self._longest)
            self.counts["short_documents"] += 1
        starts = [0, *document.ends]
        first = 0
        while first < len(document.ends):
            last = first + 1  # sentences [first, last) are in the chunk
            while last < len(document.ends) and starts[last] - starts[first] < target:
                last += 1
            cut = first + draw.randint(1, last - first - 1) if last - first > 1 else last
            a = (document.tokens, starts[first], starts[cut])
            b = None
            if last - first == 1 or draw.random() < 0.5:
                b = self._random_next(index, target - (starts[cut] - starts[first]), draw)
            if b is not None:
                yield from self._pair(a, b, 1, draw)
                first = cut
                continue
            if cut == last:  # one sentence and no other document
                middle = (starts[first] + starts[last]) // 2
                a = (document.tokens, starts[first], middle)
                yield from self._pair(a, (document.tokens, middle, starts[last]), 0, draw)
            else:
                yield from self._pair(a, (document.tokens, starts[cut], starts[last]), 0, draw)
            first = last

    def _random_next(self, index: int, wanted: int, draw: random.Random) -> tuple[np.ndarray, int, int] | None:
        """Sentences from a random place of another document, `wanted` tokens or to its end."""
        if len(self._documents) < 2:
            return None
        other = draw.randrange(len(self._documents) - 1)
        document = self._documents[other + (other >= index)]
        start = draw.randrange(len(document.ends))
        begin = document.ends[start - 1] if start else 0
        end = next((end for end in document.ends[start:] if end - begin >= wanted), document.ends[-1])
        return document.tokens, begin, end

    def _pair(
        self, a: tuple[np.ndarray, int, int], b: tuple[np.ndarray, int, int], label: int, draw: random.Random
    ) -> Iterator[Segment]:
        spans = [list(a[1:]), list(b[1:])]
        if not all(stop > start for start, stop in spans):  # a document of one token
            self.counts["tokens_unpaired"] += sum(stop - start for start, stop in spans)
            return
        excess = sum(stop - start for start, stop in spans) - self._longest
        for _ in range(excess):
            longer = spans[0] if spans[0][1] - spans[0][0] > spans[1][1] - spans[1][0] else spans[1]
            if draw.random() < 0.5:
                longer[0] += 1
            else:
                longer[1] -= 1
        self.counts["tokens_truncated"] += max(0, excess)
        self.counts["pairs"] += 1
        self.counts["random_pairs"] += label
        first, second = a[0][slice(*spans[0])], b[0][slice(*spans[1])]
        ends = np.array([self._frame.cls, self._frame.sep], first.dtype)
        tokens = np.concatenate([ends[:1], first, ends[1:], second, ends[1:]])
        yield Segment(tokens, len(first) + 2, label)
