"""A finished model of every kind of task with a file of rows for it, and what evaluation says of these."""

import csv
import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer

from ofa.config import QuantizationConfig
from ofa.downstream.evaluate_model import evaluate_model
from ofa.downstream.qat.assemble import quantised
from ofa.export.quantization_file import QUANTIZATION_FILE, encode_scales
from ofa.models.build import load_model, read_config
from ofa.models.task_models import AUTO_CLASSES
from tests.task_folders import WORDS, write_task_model, write_tokenizer

ROWS = 30
LENGTH = 24
"""Tokens of a row; some texts have more."""


@dataclass
class Case:
    """A model, its file and what was expected of it."""

    kind: str
    model: Path
    data: Path
    """The validation split."""
    texts: list
    pairs: list | None
    ids: list


def write_case(folder, name):
    """One of CASES below `folder`."""
    draw = random.Random(5)
    return CASES[name](folder / name, write_tokenizer(folder / name / "tokenizer"), draw)


def _text(draw, most=40):
    return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))


def _single(folder, tokenizer, draw):
    """A class of one text, in a table with quotes and line breaks."""
    rows = [(f"r{n}", _text(draw) + draw.choice(["", ', "so"', "\n.", "?"]), draw.choice("no")) for n in range(ROWS)]
    data = _csv(folder / "data" / "validation.csv", ("id", "review", "label"), rows)
    columns = {"text_column": "review", "label_column": "label", "max_length": LENGTH}
    model = write_task_model(
        folder / "model", "text_classification", tokenizer, names=["o", "n"], path=data.parent, **columns
    )
    return Case("classification", model, data, [row[1] for row in rows], None, [row[0] for row in rows])


def _pairs(folder, tokenizer, draw):
    """A published task of two texts, whose classes the model has in another order and spelling."""
    rows = [(f"{n}", _text(draw), _text(draw) + ' "', draw.choice(["neutral", "entailment"])) for n in range(ROWS)]
    path = folder / "data" / "dev_matched.tsv"
    path.parent.mkdir(parents=True)
    lines = ["\t".join(row) for row in [("index", "sentence1", "sentence2", "gold_label"), *rows]]
    path.write_text("\n".join(lines) + "\n")
    names = ["Neutral", "CONTRADICTION", "entailment"]
    model = write_task_model(folder / "model", "mnli", tokenizer, names=names, path=path.parent, max_length=LENGTH)
    return Case(
        "classification", model, path, [row[1] for row in rows], [row[2] for row in rows], [row[0] for row in rows]
    )


def _numbers(folder, tokenizer, draw):
    rows = [(_text(draw), str(draw.random())) for _ in range(ROWS)]
    data = _csv(folder / "data" / "validation.csv", ("text", "score"), rows)
    columns = {"text_column": "text", "label_column": "score", "max_length": LENGTH}
    model = write_task_model(folder / "model", "text_regression", tokenizer, path=data.parent, **columns)
    return Case("regression", model, data, [row[0] for row in rows], None, list(range(ROWS)))


def _words(folder, tokenizer, draw):
    """Some words have no token: a control character, and those that are cut off."""
    texts = [[*_text(draw).split(), "\x01", "cat"] for _ in range(ROWS)]
    lines = [json.dumps({"idx": 7 * n, "words": own, "tags": ["N"] * len(own)}) for n, own in enumerate(texts)]
    path = folder / "data" / "validation.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n")
    columns = {"text_column": "words", "label_column": "tags", "max_length": LENGTH}
    model = write_task_model(
        folder / "model", "token_classification", tokenizer, names=["N", "V"], path=path.parent, **columns
    )
    return Case("tokens", model, path, texts, None, [7 * n for n in range(ROWS)])


def _questions(folder, tokenizer, draw):
    """Contexts of several windows, some without an answer."""
    contexts = [_text(draw, 90) + ". " for _ in range(ROWS)]
    asked = [_text(draw, 20) for _ in range(ROWS)]
    paragraphs = [
        {"context": context, "qas": [{"id": f"q{n}", "question": one, "answers": [], "is_impossible": True}]}
        for n, (context, one) in enumerate(zip(contexts, asked, strict=True))
    ]
    path = folder / "data" / "dev-v2.0.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    section = {"max_length": LENGTH, "stride": 5, "n_best": 6, "max_answer_tokens": 4, "null_threshold": 0.5}
    model = write_task_model(folder / "model", "squad_v2", tokenizer, path=path.parent, **section)
    return Case("questions", model, path, asked, contexts, [f"q{n}" for n in range(ROWS)])


CASES = {"single": _single, "pairs": _pairs, "numbers": _numbers, "words": _words, "questions": _questions}


def _csv(path, head, rows):
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def put_scales(case):
    """Make the model one that was trained in 8 bits: scales of a few rows beside its weights."""
    init = str(case.model)
    model, _ = load_model(AUTO_CLASSES[case.kind], init, read_config(init), "sdpa")
    quantisers = quantised(model.eval(), QuantizationConfig(), "cpu")
    batch = AutoTokenizer.from_pretrained(case.model)(WORDS, padding=True, return_tensors="pt")
    with torch.no_grad(), quantisers.calibrating():
        quantisers.enter(batch["attention_mask"].bool(), training=False)
        model(**batch)
    quantisers.ranges.commit(1.0)
    quantisers.ranges.begin()
    (case.model / QUANTIZATION_FILE).write_bytes(encode_scales(quantisers.scales()))


def evaluated(case, folder):
    """What evaluation has written of each row, as `ofa.inference` says it."""
    files = evaluate_model(str(case.model), path=str(case.data.parent), predictions=folder).files
    if case.kind != "questions":
        lines = map(json.loads, files[0].read_text().splitlines())
        return [{key: value for key, value in line.items() if key != "id"} for line in lines]
    answers, best, odds = (json.loads(path.read_text()) for path in files)
    found = []
    for key, text in answers.items():
        chosen = next(one for one in best[key] if (one["text"] == "") == (text == ""))
        of_chosen = {name: chosen[name] for name in ("probability", "start", "end")}
        found.append({"answer": text, **of_chosen, "null_odds": odds[key], "n_best": best[key]})
    return found
