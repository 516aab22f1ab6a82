"""Encoded examples of one split, ragged: what a task's batches are cut from.

In: `Examples` and a tokenizer of transformers. Out: `TaskRows`, arrays that lie end to end, so that a million rows are
a few arrays and padding exists in batches only.

The tokenizer's own call was not used: it sets truncation and padding on the user's object for good, and the token types
of its windows follow from the tokenizer's kind. A context is encoded once, however many questions it has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from ofa.data.task_sources import Examples
from ofa.data.task_squad import Answer
from ofa.data.tasks import Kind, TaskError

IGNORED = -100
"""Label of a token that has none."""

CHUNK = 1000
"""Examples that are encoded together, by the tokenizer's threads."""


@dataclass(frozen=True)
class TaskRows:
    """N rows of T tokens in all. A row is an example, but for questions, whose long contexts give several windows."""

    tokens: np.ndarray
    """int32 [T], special tokens included."""
    token_types: np.ndarray
    """int8 [T], 1 in the second text."""
    lengths: np.ndarray
    """int64 [N]"""
    labels: np.ndarray | None
    """classification int64 [N]; regression float32 [N]; questions int64 [N, 2], first and last token of the answer
    within the row, 0 and 0 where it holds none; tokens int64 [T], IGNORED but at the first token of each word. None:
    the split has no labels."""
    examples: np.ndarray
    """int64 [N], number of the example that a row comes from, ascending."""
    offsets: np.ndarray | None = None
    """questions: int32 [T, 2], characters of the context that a token covers; -1 outside the context. Else None."""
    words: np.ndarray | None = None
    """tokens: int64 [W], the place in [T] of the first token of each word of all examples, end to end; -1 where it has
    none: the tokenizer gives it none, or it is cut off. Else None."""
    cut: int = 0
    """What did not fit: texts that were cut; questions that were; words without a token (tokens)."""

    def __len__(self) -> int:
        return len(self.lengths)


def encode(examples: Examples, tokenizer: Any, kind: Kind, max_length: int, stride: int = 128) -> TaskRows:
    """Rows of at most `max_length` tokens; the tokenizer stays as it is.

    Pairs are cut longest first. Questions stand before windows of their context that share `stride` tokens; a question
    is cut to half of what special tokens leave. A word's label stands at its first token.

    Args:
        tokenizer: a fast one of transformers.
        stride: of questions.

    Raises:
        TaskError: a slow tokenizer, or a stride that leaves the longest question's windows nothing new.
    """
    backend = _backend(tokenizer, kind)
    if kind == "questions":
        return _encode_questions(examples, backend, max_length, stride)
    if kind == "tokens":
        return _encode_words(examples, backend, max_length)
    backend.enable_truncation(max_length, strategy="longest_first")
    inputs = examples.texts if examples.pairs is None else list(zip(examples.texts, examples.pairs, strict=True))
    pieces, cut = [], 0
    for part in _chunks(inputs):
        encodings = backend.encode_batch_fast(part)
        pieces.append(_Piece.of(encodings))
        cut += sum(bool(one.overflowing) for one in encodings)
    return _joined(pieces, examples.labels, np.arange(len(examples)), cut=cut)


def fingerprint(*rows: TaskRows) -> str:
    """sha256 of all values, their types and shapes: two runs that share it train on the same rows."""
    digest = hashlib.sha256()
    for one in rows:
        for name in (part.name for part in fields(one)):
            value = getattr(one, name)
            if isinstance(value, np.ndarray):
                digest.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
                digest.update(np.ascontiguousarray(value).data)
            else:
                digest.update(f"{name} {value}\n".encode())
    return digest.hexdigest()


def _backend(tokenizer: Any, kind: Kind) -> Tokenizer:
    """A copy of the tokenizer's engine that neither cuts nor pads."""
    if not getattr(tokenizer, "is_fast", False):
        raise TaskError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which knows no places of its tokens in the text; convert "
            "the model's tokenizer to a tokenizer.json"
        )
    state = tokenizer.backend_tokenizer.to_str()
    if kind == "tokens" and _joins_words(json.loads(state).get("pre_tokenizer")):
        raise TaskError(
            f"{type(tokenizer).__name__} joins the words of a list; its files must set add_prefix_space to true"
        )
    backend = Tokenizer.from_str(state)
    backend.no_truncation()
    backend.no_padding()
    return backend


def _joins_words(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Whether words of a list come out as one word: byte-level tokenizers tell words by the space before them."""
    parts = [pre_tokenizer or {}, *(pre_tokenizer or {}).get("pretokenizers", [])]
    return any(part.get("type") == "ByteLevel" and not part.get("add_prefix_space") for part in parts)


@dataclass(frozen=True)
class _Piece:
    """Rows of a chunk of examples."""

    tokens: np.ndarray
    token_types: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, encodings: Sequence[Encoding]) -> _Piece:
        lengths = np.array([len(one) for one in encodings], dtype=np.int64)
        tokens = np.fromiter(chain.from_iterable(one.ids for one in encodings), np.int32, lengths.sum())
        types = np.fromiter(chain.from_iterable(one.type_ids for one in encodings), np.int8, lengths.sum())
        return cls(tokens, types, lengths)


def _joined(pieces: list[_Piece], labels: np.ndarray | None, examples: np.ndarray, *, cut: int) -> TaskRows:
    return TaskRows(
        tokens=np.concatenate([piece.tokens for piece in pieces]),
        token_types=np.concatenate([piece.token_types for piece in pieces]),
        lengths=np.concatenate([piece.lengths for piece in pieces]),
        labels=labels,
        examples=examples,
        cut=cut,
    )


def _encode_words(examples: Examples, backend: Tokenizer, max_length: int) -> TaskRows:
    backend.enable_truncation(max_length)
    pieces, words = [], []
    before = 0
    for part in _chunks(examples.words):
        encodings = backend.encode_batch(part, is_pretokenized=True)
        pieces.append(_Piece.of(encodings))
        for own, encoding in zip(part, encodings, strict=True):
            numbers = np.array([-1 if one is None else one for one in encoding.word_ids], dtype=np.int64)
            first = np.flatnonzero((numbers >= 0) & (numbers != np.concatenate([[-1], numbers[:-1]])))
            places = np.full(len(own), -1, dtype=np.int64)
            places[numbers[first]] = first + before
            words.append(places)
            before += len(numbers)
    places = np.concatenate(words)
    labels = None
    if examples.labels is not None:
        labels = np.full(before, IGNORED, dtype=np.int64)
        labels[places[places >= 0]] = examples.labels[places >= 0]
    rows = _joined(pieces, labels, np.arange(len(examples)), cut=int((places < 0).sum()))
    return replace(rows, words=places)


def _encode_questions(examples: Examples, backend: Tokenizer, max_length: int, stride: int) -> TaskRows:
    special = backend.num_special_tokens_to_add(True)
    longest = (max_length - special) // 2
    if stride >= max_length - special - longest:
        raise TaskError(
            f"task.stride {stride} leaves nothing new in a window of {max_length} tokens; set it below "
            f"{max_length - special - longest}, or task.max_length to {2 * stride + special + 2}"
        )
    windows: list[_Window] = []
    cut = 0
    for part in _chunks(range(len(examples))):
        asked = backend.encode_batch([examples.questions[one] for one in part], add_special_tokens=False)
        texts = dict.fromkeys(examples.contexts[one] for one in part)
        encodings = backend.encode_batch(list(texts), add_special_tokens=False)
        contexts = {text: _Context.of(text, one) for text, one in zip(texts, encodings, strict=True)}
        probe = next((one for one in encodings if len(one)), None)
        for number, question in zip(part, asked, strict=True):
            cut += len(question) > longest
            question.truncate(longest)
            frame = _Frame.of(backend, question, probe)
            context = contexts[examples.contexts[number]]
            answer = None if examples.answers is None else context.tokens_of(examples.answers[number])
            windows += _windows(number, frame, context, max_length - len(frame), stride, answer)
    return TaskRows(
        tokens=np.concatenate([one.tokens for one in windows]),
        token_types=np.concatenate([one.token_types for one in windows]),
        lengths=np.array([len(one.tokens) for one in windows], dtype=np.int64),
        labels=None if examples.answers is None else np.array([one.label for one in windows], dtype=np.int64),
        examples=np.array([one.example for one in windows], dtype=np.int64),
        offsets=np.concatenate([one.offsets for one in windows]),
        cut=cut,
    )


@dataclass(frozen=True)
class _Context:
    """A context's tokens: int32 [n], and the characters [n, 2] that they cover."""

    text: str
    tokens: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, text: str, encoding: Encoding) -> _Context:
        offsets = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
        return cls(text, np.array(encoding.ids, dtype=np.int32), offsets)

    def tokens_of(self, answers: tuple[Answer, ...]) -> tuple[int, int] | None:
        """First and last token of the first answer, spaces around it aside; None: no answer, or no token covers it."""
        if not answers:
            return None
        text, start = answers[0]
        begin = start + len(text) - len(text.lstrip())
        end = start + len(text.rstrip())
        first = int(np.searchsorted(self.offsets[:, 1], begin, side="right"))
        last = int(np.searchsorted(self.offsets[:, 0], end, side="left")) - 1
        return (first, last) if first <= last else None


@dataclass(frozen=True)
class _Frame:
    """What stands around the context in every window of a question, and the token type inside."""

    before: np.ndarray
    after: np.ndarray
    types_before: np.ndarray
    types_after: np.ndarray
    inside: int

    @classmethod
    def of(cls, backend: Tokenizer, question: Encoding, probe: Encoding | None) -> _Frame:
        """From the tokenizer's own template, filled with the question and some context, whose place is then known."""
        whole = backend.post_process(question, probe if probe is not None else Encoding())
        places = [place for place, text in enumerate(whole.sequence_ids) if text == 1]
        begin, end = (places[0], places[-1] + 1) if places else (len(whole) - 1, len(whole) - 1)
        tokens, types = np.array(whole.ids, dtype=np.int32), np.array(whole.type_ids, dtype=np.int8)
        return cls(tokens[:begin], tokens[end:], types[:begin], types[end:], int(types[begin]))

    def __len__(self) -> int:
        return len(self.before) + len(self.after)


@dataclass(frozen=True)
class _Window:
    """One row."""

    example: int
    tokens: np.ndarray
    token_types: np.ndarray
    offsets: np.ndarray
    label: tuple[int, int]


def _windows(
    number: int, frame: _Frame, context: _Context, room: int, stride: int, answer: tuple[int, int] | None
) -> Iterator[_Window]:
    """Windows of `room` context tokens, each `stride` of which are the last of the one before; the last may be short.

    answer: its first and last token within the context.
    """
    total = len(context.tokens)
    for start in range(0, max(total - stride, 1), room - stride):
        end = min(start + room, total)
        outside = [np.full((len(part), 2), -1, dtype=np.int32) for part in (frame.before, frame.after)]
        inside = np.full(end - start, frame.inside, dtype=np.int8)
        label = 0, 0
        if answer is not None and start <= answer[0] and answer[1] < end:
            shift = len(frame.before) - start
            label = answer[0] + shift, answer[1] + shift
        yield _Window(
            number,
            np.concatenate([frame.before, context.tokens[start:end], frame.after]),
            np.concatenate([frame.types_before, inside, frame.types_after]),
            np.concatenate([outside[0], context.offsets[start:end], outside[1]]),
            label,
        )
        if end == total:
            return


def _chunks(values: Any) -> Iterable[Any]:
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))
