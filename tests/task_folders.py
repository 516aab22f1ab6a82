"""Model folders with a task head and random weights, exported by our own code, and small files of tasks."""

import torch
from transformers import AutoModelForPreTraining, AutoTokenizer, BertConfig

from ofa.config import FinetuneConfig, parse
from ofa.data.tasks import TASKS
from ofa.export.hf import export_model
from ofa.export.recipe_file import describe_run
from ofa.models.adapters import scope
from ofa.models.task_models import AUTO_CLASSES
from tests.selection import keep_largest

WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "old", "new", "mat", "hill", "river", "red", "blue"]


def write_tokenizer(folder):
    """A WordPiece vocabulary of whole words and letters."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?'"
    pieces = [*WORDS, *letters, *(f"##{letter}" for letter in letters)]
    unique = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces])
    (folder / "vocab.txt").write_text("\n".join(unique) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}\n')
    return folder


def write_task_model(folder, task, tokenizer_folder, *, names=None, path=None, seed=0, sparsity=0.5, **section):
    """A sparse BERT of two layers for a row of the tasks, weights so wide that its answers differ; returns `folder`.

    names: its classes in the order of its ids; None: the task's. section: further values of the recorded task.
    """
    row = TASKS[task]
    config = _config(tokenizer_folder)
    names = list(names if names is not None else row.labels)
    if row.kind == "regression":
        config.num_labels = 1
    elif row.kind != "questions":
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
    torch.manual_seed(seed)
    model = AUTO_CLASSES[row.kind].from_config(config)
    keep = _prune(model, sparsity)
    export_model(folder, model.eval(), tokenizer_folder, keep, _recipe(task, path, section))
    return folder


def write_encoder(folder, tokenizer_folder):
    """A sparse pre-trained BERT of the same size, that no task was ever named for; returns `folder`."""
    torch.manual_seed(1)
    model = AutoModelForPreTraining.from_config(_config(tokenizer_folder))
    keep = _prune(model, 0.5)
    export_model(folder, model.eval(), tokenizer_folder, keep, {"name": "base", "parents": [], "config": {}})
    return folder


def _config(tokenizer_folder):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    entries = len(AutoTokenizer.from_pretrained(tokenizer_folder))
    return BertConfig(vocab_size=entries, max_position_embeddings=384, initializer_range=0.3, **sizes)


def _prune(model, sparsity):
    """Make zeros; returns the masks."""
    keep = {name: keep_largest(weight.detach().abs(), sparsity) for name, weight in scope(model).items()}
    with torch.no_grad():
        for name, weight in scope(model).items():
            weight.mul_(keep[name])
    return keep


def _recipe(task, path, section):
    section = {"name": task, "path": None if path is None else str(path), **section}
    values = {
        "model": {"init": "runs/base/model"},
        "task": section,
        "batch": {"global_size": 8, "micro_size": 8},
        "optimizer": {"lr": 1e-4},
        "seed": 7,
    }
    config = parse(FinetuneConfig, values, origin="test")
    data = {"name": task, "fingerprint": "cd" * 32}
    return describe_run(config, name=f"x/{task}", steps=12, parents=[], data=data, versions={})
