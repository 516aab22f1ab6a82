"""Predictions as files that others' tools take.

In: decisions, answers or probabilities, and the class names. Out: GLUE's server gets one .tsv a task, SQuAD's scripts
get predictions.json and null_odds.json (as `--na-prob-file`), everything else .jsonl with one example a line. A file is
whole or absent. Class names are matched by name: the order of a model's classes never decides what is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa.downstream.answers import Answers
from ofa.files import write_text


class PredictionsError(ValueError):
    """Predictions that a format cannot hold: what was found, what was expected."""


def _itself(*words: str) -> dict[str, str]:
    return {word: word for word in words}


_BINARY = _itself("0", "1")
_PAIR = _itself("entailment", "not_entailment")
_TRIPLE = _itself("entailment", "neutral", "contradiction")

GLUE_FILES: Mapping[str, Mapping[str, str]] = {
    "CoLA": {**_BINARY, "unacceptable": "0", "acceptable": "1"},
    "SST-2": {**_BINARY, "negative": "0", "positive": "1"},
    "MRPC": {**_BINARY, "not_equivalent": "0", "equivalent": "1"},
    "STS-B": {},
    "QQP": {**_BINARY, "not_duplicate": "0", "duplicate": "1"},
    "MNLI-m": _TRIPLE,
    "MNLI-mm": _TRIPLE,
    "QNLI": _PAIR,
    "RTE": _PAIR,
    "WNLI": {**_BINARY, "not_entailment": "0", "entailment": "1"},
}
"""File name: class name -> the server's word for it. Names are those of the original files or of the published
datasets; STS-B has no classes but a value in [0, 5]."""


def write_glue(folder: Path, file: str, predictions: np.ndarray, names: Sequence[str] = ()) -> Path:
    """Write `<file>.tsv` with the columns `index` (from 0, in the order of test.tsv) and `prediction`.

    Args:
        file: a key of `GLUE_FILES`.
        predictions: int64 [N], classes; for STS-B values, cut to [0, 5] and written with three decimals.
        names: class names, in the order of the classes.

    Raises:
        PredictionsError: a file or a class name that the server does not know; no predictions; classes without name.
    """
    if file not in GLUE_FILES:
        raise PredictionsError(f"GLUE's server knows no file {file!r}: known are {', '.join(GLUE_FILES)}")
    if predictions.ndim != 1 or not len(predictions):
        raise PredictionsError(f"{file}.tsv: predictions of shape {list(predictions.shape)}, expected [N] with N > 0")
    cells = _glue_words(file, predictions, names) if GLUE_FILES[file] else _glue_values(file, predictions)
    path = folder / f"{file}.tsv"
    lines = [f"{index}\t{cell}" for index, cell in enumerate(cells)]
    write_text(path, "\n".join(["index\tprediction", *lines]) + "\n")
    return path


def write_squad(folder: Path, answers: Answers) -> list[Path]:
    """Write predictions.json, nbest_predictions.json and, where questions may have no answer, null_odds.json."""
    best = {key: [one._asdict() for one in candidates] for key, candidates in answers.n_best.items()}
    contents: dict[str, Any] = {"predictions.json": answers.predictions, "nbest_predictions.json": best}
    if answers.null_odds is not None:
        contents["null_odds.json"] = answers.null_odds
    for name, content in contents.items():
        write_text(folder / name, json.dumps(content, indent=1) + "\n")
    return [folder / name for name in contents]


def write_classes(
    path: Path,
    *,
    ids: Sequence[str],
    probabilities: Sequence[np.ndarray] | Sequence[Sequence[np.ndarray | None]],
    names: Sequence[str],
) -> None:
    """Write a line of `id`, `label` and `probabilities` (class name -> share) for every example.

    Args:
        probabilities: N arrays [classes]; or N lists of them, one a word, which makes lists of both; None, of a word of
            which nothing is said, makes null.
        names: class names, in the order of the classes.

    Raises:
        PredictionsError: other counts of ids or classes, or a share that is not finite.
    """
    _check_counts(path, len(ids), len(probabilities))
    rows = []
    for key, own in zip(ids, probabilities, strict=True):
        for shares in [own] if isinstance(own, np.ndarray) else own:
            if shares is not None:
                _check_shares(f"{path.name}: example {key}", shares, names)
        rows.append({"id": key, **labelled(own, names)})
    _write_lines(path, rows)


def write_values(path: Path, *, ids: Sequence[str], values: np.ndarray) -> None:
    """Write a line of `id` and `label`, the value of a regression, for every example.

    Raises:
        PredictionsError: another count of ids, or a value that is not finite.
    """
    _check_counts(path, len(ids), len(values))
    _check_values(path.name, values)
    _write_lines(path, ({"id": key, "label": value} for key, value in zip(ids, values.tolist(), strict=True)))


def _glue_words(file: str, predictions: np.ndarray, names: Sequence[str]) -> list[str]:
    words = GLUE_FILES[file]
    expected = sorted(set(words.values()))
    spelled = [words.get(name) for name in names]
    if sorted(map(str, spelled)) != expected:
        raise PredictionsError(
            f"{file}.tsv: classes {list(names)} are not the server's {expected}: give names out of "
            f"{', '.join(words)}, one for each"
        )
    if not np.issubdtype(predictions.dtype, np.integer) or predictions.min() < 0 or predictions.max() >= len(names):
        raise PredictionsError(
            f"{file}.tsv: predictions from {predictions.min()} to {predictions.max()} "
            f"({predictions.dtype}), expected whole numbers from 0 to {len(names) - 1}"
        )
    return [str(spelled[one]) for one in predictions.tolist()]


def _glue_values(file: str, predictions: np.ndarray) -> list[str]:
    _check_values(f"{file}.tsv", predictions)
    return [f"{value:.3f}" for value in np.clip(predictions, 0.0, 5.0) + 0.0]  # + 0.0: no "-0.000"


def labelled(shares: np.ndarray | Sequence[np.ndarray | None] | None, names: Sequence[str]) -> dict[str, Any]:
    """What a line says of an example beside its id, of `write_classes`' probabilities."""
    if shares is None:
        return {"label": None, "probabilities": None}
    if isinstance(shares, np.ndarray):
        return {"label": names[int(shares.argmax())], "probabilities": dict(zip(names, shares.tolist(), strict=True))}
    words = [labelled(one, names) for one in shares]
    return {key: [word[key] for word in words] for key in ("label", "probabilities")}


def _check_shares(where: str, shares: np.ndarray, names: Sequence[str]) -> None:
    if shares.shape == (len(names),) and np.isfinite(shares).all():
        return
    what = "a share that is not finite" if shares.shape == (len(names),) else f"{shares.shape[-1]} classes"
    raise PredictionsError(f"{where} has {what}, expected a share for each of {len(names)}: {', '.join(names)}")


def _check_counts(path: Path, ids: int, found: int) -> None:
    if ids != found:
        raise PredictionsError(f"{path.name}: {found:,} predictions for {ids:,} ids: expected one each")


def _check_values(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise PredictionsError(f"{name}: the value of row {row} is {values[row]}, expected a finite number")


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
