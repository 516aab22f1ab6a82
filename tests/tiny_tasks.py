"""A small sparse base and small tasks of every kind for it, made of the words `w5`, `w6`, ... of its vocabulary.

What is to be learned is simple: a class or a number is told by marked words, a word's class by its number, an answer is
the word behind a marked one.
"""

import csv
import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from ofa.export.masks_file import write_masks
from tests import released

SIZE = released.Size(2, 32, 2, 64, vocab=60, positions=48)
SPARSITY = 0.8
ORDINARY = range(10, SIZE.vocab)
"""Numbers of the words without a meaning."""

CLASSES = ("no", "yes")


def write_base(folder: Path, *, masks: bool = True, sparsity: float = SPARSITY, seed: int = 0) -> Path:
    """A BERT for pre-training with zeros of both signs, as the authors of Prune OFA published theirs, and its masks."""
    state, zeros = released.bert(SIZE, sparsity, seed)
    released.write_folder(folder, released.bert_config(SIZE), state, kind="safetensors")
    if masks:
        write_masks(folder / "masks.safetensors", {name: state[name] != 0 for name in zeros})
    return folder


def write_teacher(folder: Path, base: Path, labels=CLASSES, *, order=None, seed: int = 3) -> Path:
    """A dense classifier of the base's vocabulary; `order` permutes its outputs and their names alike."""
    torch.manual_seed(seed)
    config = BertConfig(**{**released.bert_config(SIZE), "initializer_range": 0.3})
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: number for number, name in enumerate(labels)}
    model = BertForSequenceClassification(config)
    if order is not None:
        config.id2label = {number: labels[place] for number, place in enumerate(order)}
        config.label2id = {name: number for number, name in config.id2label.items()}
        with torch.no_grad():
            model.classifier.weight.copy_(model.classifier.weight[order])
            model.classifier.bias.copy_(model.classifier.bias[order])
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


# ---- data -------------------------------------------------------------------------------------------------------


def write_pairs(folder: Path, *, train=96, validation=40, contradicted=False) -> Path:
    """Two texts and a class: whether the second has `w6` or `w5`. The validation split of a contradicted task says the
    opposite, so that its score falls with every step."""
    draw = np.random.default_rng(1)
    for split, rows in (("train", train), ("validation", validation)):
        table = [("first", "second", "label")]
        for _ in range(rows):
            mark = int(draw.integers(2))
            told = 1 - mark if contradicted and split == "validation" else mark
            table.append((_text(draw), _text(draw, [5 + mark] * 3), CLASSES[told]))
        _write_csv(folder / f"{split}.csv", table)
    return folder


def write_numbers(folder: Path, *, train=96, validation=40) -> Path:
    """A text and a number: how many `w7` it has."""
    draw = np.random.default_rng(2)
    for split, rows in (("train", train), ("validation", validation)):
        table = [("text", "score")]
        for _ in range(rows):
            count = int(draw.integers(4))
            table.append((_text(draw, [7] * count), str(count)))
        _write_csv(folder / f"{split}.csv", table)
    return folder


def write_words(folder: Path, *, train=96, validation=40) -> Path:
    """Words and a class for each: odd or even."""
    draw = np.random.default_rng(3)
    for split, rows in (("train", train), ("validation", validation)):
        lines = []
        for _ in range(rows):
            words = _text(draw).split()
            lines.append({"words": words, "tags": [("even", "odd")[int(word[1:]) % 2] for word in words]})
        _write_lines(folder / f"{split}.jsonl", map(json.dumps, lines))
    return folder


def write_questions(folder: Path, *, train=24, validation=12) -> Path:
    """SQuAD v2's layout: what stands behind `w8`? A third of the contexts has no `w8`; most are longer than a row."""
    draw = np.random.default_rng(4)
    for split, rows in (("train", train), ("dev", validation)):
        paragraphs = [_paragraph(draw, f"{split}-{number}", answerable=number % 3 > 0) for number in range(rows)]
        text = json.dumps({"version": "v2.0", "data": [{"title": "words", "paragraphs": paragraphs}]})
        _write_lines(folder / f"{split}-v2.0.json", [text])
    return folder


def _paragraph(draw, identifier, *, answerable):
    words = [f"w{draw.choice(ORDINARY)}" for _ in range(draw.integers(15, 60))]
    answers = []
    if answerable:
        place = int(draw.integers(len(words) - 1))
        words[place] = "w8"
        start = len(" ".join(words[: place + 1])) + 1
        answers = [{"text": words[place + 1], "answer_start": start}]
    question = {"id": identifier, "question": "w8 w9", "answers": answers, "is_impossible": not answerable}
    return {"context": " ".join(words), "qas": [question]}


def _text(draw, marks=()):
    words = [int(word) for word in draw.choice(ORDINARY, draw.integers(3, 9))] + list(marks)
    draw.shuffle(words)
    return " ".join(f"w{word}" for word in words)


def _write_csv(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(table)


def _write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


# ---- configs ----------------------------------------------------------------------------------------------------


COMMON = {
    "model": {"init": "base"},
    "batch": {"global_size": 8, "micro_size": 4},
    "optimizer": {"lr": 3e-3},
    "schedule": {"total_steps": 8, "warmup_share": 0.2},
    "evaluate": {"every": 4},
    "checkpoint": {"every": 4},
    "engine": {"threads": 1},
    "log": {"every": 1},
}
"""Dropout stays at the architecture's 0.1, so that its randomness has to be resumed too."""

COFI = {
    "model": {"init": "dense"},
    "schedule": {"total_steps": 30},
    "structure": {"sparsity": 0.6, "begin_epochs": 0.3, "ramp_epochs": 0.5, "multiple": 4, "lr": 0.5},
    "finetune": {"epochs": 0.6},
    "optimizer": {"lr": 1e-3},
}
"""Stages change inside an epoch, and gates close within the few steps there are."""

KINDS = {
    "pairs": {
        "name": "text_classification",
        "path": "tasks/pairs",
        "text_column": "first",
        "pair_column": "second",
        "label_column": "label",
    },
    "numbers": {
        "name": "text_regression",
        "path": "tasks/numbers",
        "text_column": "text",
        "label_column": "score",
    },
    "words": {
        "name": "token_classification",
        "path": "tasks/words",
        "text_column": "words",
        "label_column": "tags",
    },
    "questions": {"name": "squad_v2", "path": "tasks/questions", "stride": 8, "max_length": 32},
}
"""The task section of each kind."""


def write_project(folder: Path) -> Path:
    """Bases, tasks of every kind, teachers of the pairs, and a config for each kind: `pairs.json` and so on, and
    `taught.json`, the pairs with a teacher; `cofi.json`, structured pruning of these."""
    write_base(folder / "base")
    write_base(folder / "unmasked", masks=False)
    write_base(folder / "dense", masks=False, sparsity=0.0)
    write_pairs(folder / "tasks" / "pairs")
    write_numbers(folder / "tasks" / "numbers")
    write_words(folder / "tasks" / "words")
    write_questions(folder / "tasks" / "questions")
    write_teacher(folder / "teacher", folder / "base")
    _write_config(folder / "common.json", COMMON)
    for name, task in KINDS.items():
        _write_config(folder / f"{name}.json", {"base": "common.json", "task": {"max_length": 48, **task}})
    _write_config(folder / "taught.json", {"base": "pairs.json", "teacher": {"init": "teacher"}})
    _write_config(folder / "cofi.json", {"base": "taught.json", **COFI})
    return folder


def _write_config(path, values):
    path.write_text(json.dumps(values))
