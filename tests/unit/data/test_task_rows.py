"""Encoding: rows as transformers itself makes them, answers and words at their tokens."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ofa.config import TaskConfig
from ofa.data.task_rows import IGNORED, encode, fingerprint
from ofa.data.task_sources import Examples, read_split
from ofa.data.task_squad import Answer
from ofa.data.tasks import TaskError, task_for

WORD = st.text("abcdefgh .,-\u00e9\u4e2d\u0301", max_size=40)


def texts(*values, pairs=None, labels=None):
    ids = [str(number) for number in range(len(values))]
    return Examples(ids=ids, labels=labels, texts=list(values), pairs=pairs)


def asked(*questions):
    """Questions given as (question, context, answers)."""
    ids = [str(number) for number in range(len(questions))]
    return Examples(
        ids=ids,
        labels=None,
        questions=[one[0] for one in questions],
        contexts=[one[1] for one in questions],
        answers=[tuple(Answer(*answer) for answer in one[2]) for one in questions],
    )


def split(rows):
    """(tokens, token types, labels or offsets by token) of each row as lists."""
    ends = np.cumsum(rows.lengths)[:-1]
    parts = [np.split(one, ends) for one in (rows.tokens, rows.token_types)]
    return [[values.tolist() for values in row] for row in zip(*parts, strict=True)]


def own(tokenizer):
    """The tokenizer without what its file says of truncation and padding."""
    copy = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **tokenizer.special_tokens_map)
    copy.backend_tokenizer.no_truncation()
    copy.backend_tokenizer.no_padding()
    return copy


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(WORD, WORD), min_size=1, max_size=5), length=st.integers(8, 40))
def test_rows_are_those_of_transformers(wordpiece, pairs, length):
    """Pairs are cut longest first; a file's own truncation and padding are off, and stay on in the user's object."""
    before = wordpiece.backend_tokenizer.to_str()
    firsts, seconds = map(list, zip(*pairs, strict=True))
    for second in (seconds, None):
        rows = encode(texts(*firsts, pairs=second), wordpiece, "classification", length)
        assert wordpiece.backend_tokenizer.to_str() == before
        expected = own(wordpiece)(
            firsts, second, truncation="longest_first", max_length=length, return_token_type_ids=True
        )
        found = split(rows)
        assert [row[0] for row in found] == expected["input_ids"]
        assert [row[1] for row in found] == expected["token_type_ids"]
        whole = own(wordpiece)(firsts, second)["input_ids"]
        assert rows.cut == sum(len(one) > length for one in whole)
    assert '"max_length":7' in before.replace(" ", ""), "the file's own truncation would have cut these rows"


def test_labels_and_order_are_kept_over_chunks(wordpiece):
    many = texts(*(f"{number}" for number in range(2345)), labels=np.arange(2345))
    rows = encode(many, wordpiece, "classification", 16)
    assert rows.labels.tolist() == rows.examples.tolist() == list(range(2345)) and len(rows) == 2345
    found = split(rows)
    for number in (0, 999, 1000, 2000, 2344):
        assert found[number] == split(encode(texts(f"{number}"), wordpiece, "classification", 16))[0]
    assert (rows.tokens.dtype, rows.token_types.dtype, rows.lengths.dtype) == (np.int32, np.int8, np.int64)


# ---- questions ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(question=WORD, context=st.text("abcdefgh .,", max_size=200), length=st.integers(16, 40), data=st.data())
def test_windows_are_those_of_transformers(wordpiece, question, context, length, data):
    """Wherever the question is left whole; offsets of the context too, and none elsewhere."""
    plain = own(wordpiece)
    stride = data.draw(st.integers(0, (length - 3) // 2 - 1))
    rows = encode(asked((question, context, [])), wordpiece, "questions", length, stride)
    assert rows.lengths.max() <= length and set(rows.examples) == {0}
    if rows.cut:
        return
    expected = plain(
        [question],
        [context],
        truncation="only_second",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    assert [row[0] for row in split(rows)] == expected["input_ids"]
    assert [row[1] for row in split(rows)] == expected["token_type_ids"]
    offsets = np.split(rows.offsets, np.cumsum(rows.lengths)[:-1])
    for number, window in enumerate(offsets):
        places = expected.sequence_ids(number)
        pairs = zip(places, expected["offset_mapping"][number], strict=True)
        assert window.tolist() == [list(pair) if place == 1 else [-1, -1] for place, pair in pairs]


def answer_texts(rows, examples):
    """(example, text that the label's tokens cover) of every window that holds its answer."""
    starts = np.cumsum(rows.lengths) - rows.lengths
    for number, (first, last) in enumerate(rows.labels.tolist()):
        if last:
            begin, end = rows.offsets[starts[number] + first, 0], rows.offsets[starts[number] + last, 1]
            yield int(rows.examples[number]), examples.contexts[rows.examples[number]][begin:end]


@settings(max_examples=80, deadline=None)
@given(
    words=st.lists(st.sampled_from(["fox", "dog", "quick", "vow", "sphinx,"]), min_size=1, max_size=60), data=st.data()
)
def test_labels_cover_the_whole_answer_or_nothing(wordpiece, words, data):
    """Answers of whole words, with spaces around them: found in just the windows that hold all their tokens."""
    context = "  ".join(words) + " "
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, min(first + 4, len(words) - 1)))
    begin = len("  ".join(words[:first])) + 2 * (first > 0)
    text = "  ".join(words[first : last + 1])
    left = data.draw(st.integers(0, min(begin, 2)))
    answer = (context[begin - left : begin + len(text) + 1], begin - left)
    examples = asked(("who", context, [answer]))
    rows = encode(examples, wordpiece, "questions", 24, stride=8)
    found = [text for _, text in answer_texts(rows, examples)]
    assert set(found) <= {text}
    offsets = np.split(rows.offsets, np.cumsum(rows.lengths)[:-1])
    holding = [one for one in offsets if one[one >= 0].min() <= begin and one.max() >= begin + len(text)]
    assert len(found) == len(holding)


def test_an_answer_inside_a_token_is_the_token(wordpiece):
    examples = asked(("who", "the fox jumps", [("ox", 5)]), ("who", "the fox jumps", []))
    rows = encode(examples, wordpiece, "questions", 24, stride=8)
    assert [text.strip() in ("fox", "ox") for _, text in answer_texts(rows, examples)] == [True]
    assert rows.labels[1].tolist() == [0, 0]


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("answer", [("fox", 5), (" fox", 4), ("fox  ", 5), ("  fox ", 3)])
def test_spaces_around_an_answer_take_no_neighbour_in(trim, answer):
    """Tokens of byte-level tokenizers may cover the space before a word."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=trim)
    special = trainers.BpeTrainer(special_tokens=["<s>", "</s>"], initial_alphabet=backend.pre_tokenizer.alphabet())
    backend.train_from_iterator(["the  fox  jumps over the fox jumps"] * 9, special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    examples = asked(("who", "the  fox  jumps", [answer]), ("who", "the  fox  jumps", [("fox", 5)]))
    rows = encode(examples, tokenizer, "questions", 24, stride=4)
    assert rows.labels[0].tolist() == rows.labels[1].tolist()
    assert [text.strip() for _, text in answer_texts(rows, examples)] == ["fox", "fox"]


def test_long_questions_are_cut_to_half_and_counted(wordpiece):
    examples = asked(("fox " * 50, "dog " * 50, [("dog", 0)]), ("dog", "", []))
    rows = encode(examples, wordpiece, "questions", 23, stride=4)
    fox, dog = (wordpiece.convert_tokens_to_ids(word) for word in ("fox", "dog"))
    assert rows.cut == 1 and split(rows)[0][0] == [2, *[fox] * 10, 3, *[dog] * 10, 3]
    assert split(rows)[-1][0] == [2, dog, 3, 3]


def test_a_stride_that_leaves_nothing_is_refused(wordpiece):
    with pytest.raises(
        TaskError, match="task.stride 128 .* window of 64 tokens; set it below 31, or task.max_length to 261"
    ):
        encode(asked(("a", "b", [])), wordpiece, "questions", 64, 128)
    encode(asked(("a", "b", [])), wordpiece, "questions", 64, 30)
    encode(asked(("a", "b", [])), wordpiece, "questions", 261, 128)


def test_questions_without_answers_have_no_labels(wordpiece):
    examples = Examples(ids=["0"], labels=None, questions=["who"], contexts=["the fox"])
    assert encode(examples, wordpiece, "questions", 32, 4).labels is None


def test_real_answers_come_back_from_their_tokens(squad, bert_tokenizer):
    """SQuAD's development set: every answer is whole in some window, and its characters are the text."""
    config = TaskConfig(name="squad", path=str(squad), validation_rows=3000)
    task = task_for(config)
    examples = read_split(task, config, "validation")
    rows = encode(examples, bert_tokenizer, task.kind, 160, stride=64)
    assert len(rows) > 3100 and rows.cut == 0
    wider = 0
    found = set()
    for number, text in answer_texts(rows, examples):
        answer = examples.answers[number][0].text.strip()
        assert answer in text
        wider += text != answer
        found.add(number)
    assert len(found) > 0.998 * len(examples)
    assert wider < 0.01 * len(rows), "answers that begin or end inside a token"


# ---- words --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.lists(WORD, max_size=12), min_size=1, max_size=4), length=st.integers(8, 30))
def test_the_first_token_of_each_word_is_labelled(wordpiece, rows, length):
    """As many labels as words that have a token; the others are counted; labels are those of their words."""
    total = sum(map(len, rows))
    labels = np.arange(total) + 100
    examples = Examples(ids=[""] * len(rows), labels=labels, words=rows)
    encoded = encode(examples, wordpiece, "tokens", length)
    placed = encoded.labels[encoded.labels != IGNORED]
    assert len(placed) + encoded.cut == total and np.all(np.diff(placed) > 0)
    expected = own(wordpiece)(rows, is_split_into_words=True, truncation=True, max_length=length)
    before = 0
    by_row = np.split(encoded.labels, np.cumsum(encoded.lengths)[:-1])
    for number, own_words in enumerate(rows):
        wanted, seen = [], set()
        for word in expected.word_ids(number):
            first = word is not None and word not in seen
            wanted.append(labels[before + word] if first else IGNORED)
            seen.add(word)
        assert by_row[number].tolist() == wanted
        before += len(own_words)
    placed = encoded.words >= 0
    assert encoded.labels[encoded.words[placed]].tolist() == labels[placed].tolist() and len(encoded.words) == total
    unlabelled = encode(replace(examples, labels=None), wordpiece, "tokens", length)
    assert unlabelled.labels is None and unlabelled.words.tolist() == encoded.words.tolist()


# ---- refusals, fingerprint ----------------------------------------------------------------------------------------


def test_tokenizers_that_know_no_places_are_refused():
    with pytest.raises(TaskError, match="is a slow tokenizer"):
        encode(texts("a"), SimpleNamespace(is_fast=False), "classification", 16)


def test_a_tokenizer_that_joins_words_is_refused(wordpiece):
    """Byte-level ones know a word by the space before it."""
    backend = Tokenizer(models.BPE())
    examples = Examples(ids=["0"], labels=None, words=[["a", "b"]])
    for pre_tokenizer in (pre_tokenizers.ByteLevel, lambda **values: pre_tokenizers.Sequence([byte_level(**values)])):
        backend.pre_tokenizer = pre_tokenizer(add_prefix_space=False)
        with pytest.raises(TaskError, match="must set add_prefix_space to true"):
            encode(examples, PreTrainedTokenizerFast(tokenizer_object=backend), "tokens", 16)
        backend.pre_tokenizer = pre_tokenizer(add_prefix_space=True)
        encode(examples, PreTrainedTokenizerFast(tokenizer_object=backend), "tokens", 16)


byte_level = pre_tokenizers.ByteLevel


def test_the_fingerprint_follows_every_value(wordpiece):
    def of(*values, labels=(0, 1), pairs=None, length=16):
        return encode(texts(*values, pairs=pairs, labels=np.array(labels)), wordpiece, "classification", length)

    base = of("the fox", "the dog")
    others = [of("the dog", "the fox"), of("the fox", "the dog", labels=(1, 1)), of("the fox", "dog"), of("the", "dog")]
    assert fingerprint(base) == fingerprint(of("the fox", "the dog"))
    prints = {fingerprint(*rows) for rows in [(base,), (base, base), (base, others[0]), *((one,) for one in others)]}
    assert len(prints) == 7
