"""Questions on contexts: SQuAD's JSON files, and the rows of its dataset on the hub.

In: the text of a file, or a record. Out: flat records; a question with its answers checked against the context.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from ofa.data.tasks import TaskError


class Answer(NamedTuple):
    """A span of a context."""

    text: str
    start: int
    """Character of the context at which it begins."""


class Question(NamedTuple):
    """One question."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    """() where the context has none, or the split has no answers."""


def read_articles(text: str, file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of each question of a file of SQuAD v1.1 or v2; the record's columns are those of the hub.

    Raises:
        TaskError: not JSON, or of another layout.
    """
    try:
        articles = json.loads(text)["data"]
        for number, article in enumerate(articles):
            for part, paragraph in enumerate(article["paragraphs"]):
                place = f"article {number}, paragraph {part}"
                for found in paragraph["qas"]:
                    yield f"{place}, question {found.get('id')}", {**found, "context": paragraph["context"]}
    except json.JSONDecodeError as error:
        raise TaskError(f"{file}, line {error.lineno}: not JSON ({error.msg} at column {error.colno})") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise TaskError(
            f"{file}: not SQuAD's layout ({error}); expected data[].paragraphs[] with context and qas[]"
        ) from None


def question_of(values: dict[str, Any], where: str, *, labelled: bool, unanswerable: bool) -> Question:
    """The question of a record.

    Args:
        where: File and place, for errors.
        labelled: whether its answers are needed.
        unanswerable: whether it may have none.

    Raises:
        TaskError: a part is missing, or an answer does not stand where it is said to.
    """
    parts = [values.get(key) for key in ("id", "question", "context")]
    for key, part in zip(("id", "question", "context"), parts, strict=True):
        if not isinstance(part, str):
            there = ", ".join(values)
            raise TaskError(f"{where}: expected text in {key!r}, found {json.dumps(part)[:80]}; there are {there}")
    identifier, question, context = map(str, parts)
    if not labelled:
        return Question(identifier, question, context, ())
    answers = () if values.get("is_impossible") else _answers(values.get("answers"), where)
    if not answers and not unanswerable:
        raise TaskError(f"{where}: no answer; questions without one belong to the task squad_v2")
    for answer in answers:
        found = context[answer.start : answer.start + len(answer.text)]
        if answer.start < 0 or found != answer.text or not answer.text.strip():
            expected = json.dumps(answer.text, ensure_ascii=False)
            at = json.dumps(found, ensure_ascii=False)
            raise TaskError(f"{where}: answer {expected} is not at character {answer.start} of the context: {at} is")
    return Question(identifier, question, context, answers)


def _answers(found: Any, where: str) -> tuple[Answer, ...]:
    """From a list of objects (the files), or an object of lists (the hub)."""
    try:
        if isinstance(found, dict):
            pairs = zip(found["text"], found["answer_start"], strict=True)
        else:
            pairs = ((one["text"], one["answer_start"]) for one in found)
        return tuple(Answer(str(text), int(start)) for text, start in pairs)
    except (KeyError, TypeError, ValueError) as error:
        raise TaskError(f"{where}: answers need text and answer_start ({type(error).__name__}: {error})") from None
