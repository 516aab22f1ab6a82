"""benchmarks/cofi_models.py: what it says of exported models, and which it does not compare."""

import json
import sys
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from benchmarks import cofi_models, model_pairs
from ofa.export.recipe_file import FORMAT, RECIPE_FILE, VERSION
from ofa.models.blocks import sizes_of
from ofa.models.materialise import materialise
from ofa.models.structure import StructureMasks

SIZES: Any = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 24,
}
ATTENTION, FFN = 4 * 16 * 16, 2 * 16 * 32
"""Weights of a layer's Linears."""


def save(folder, model, scores=None, data="task"):
    """A model folder, with what a run's recipe says of its scores."""
    model.save_pretrained(folder)
    if scores is not None:
        recipe = {"format": FORMAT, "version": VERSION, "scope": {"tensors": {}}, "files": {}}
        recipe |= {"scores": scores, "data": {"name": data}}
        (folder / RECIPE_FILE).write_text(json.dumps(recipe))


def half(model):
    """One head of two in both layers, and no feed-forward network in the second."""
    masks = StructureMasks.ones(sizes_of(model))
    masks.head[:, 0] = 0
    masks.ffn[1] = 0
    return materialise(model, masks.canonical())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Models by name: `dense`, `pruned` of it, and those that are not its own."""
    place = tmp_path_factory.mktemp("models")
    dense = BertForSequenceClassification(BertConfig(**SIZES))
    save(place / "dense", dense, {"validation": {"accuracy": 0.75}, "validation_mismatched": {"accuracy": 0.7}})
    save(place / "pruned", half(dense), {"validation": {"accuracy": 0.5}})
    save(place / "elsewhere", half(dense), {"validation": {"f1": 0.25}}, data="another task")
    save(place / "masked words", half(BertForMaskedLM(BertConfig(**SIZES))))
    save(place / "narrow", BertForSequenceClassification(BertConfig(**{**SIZES, "intermediate_size": 16})))
    save(place / "no head", dense.bert)
    torch.save({}, place / "file")
    return place


@pytest.fixture
def asked(folders, monkeypatch, capsys):
    """asked(*arguments) -> status, output, errors of the command, whose dense models take 3 s and pruned ones 1 s."""
    seen = []

    def timed(work, device):
        work()
        return 1.0 if type(seen[-1]).__name__.startswith("Compact") else 3.0

    def note(module, _):
        if isinstance(module, BertForSequenceClassification):
            seen.append(module)

    monkeypatch.setattr(model_pairs, "timed", timed)
    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)

    def ask(*arguments):
        monkeypatch.chdir(folders)
        monkeypatch.setattr(sys, "argv", ["cofi_models.py", "--rounds", "3", "--length", "8", *arguments])
        status = cofi_models.main()
        return status, *capsys.readouterr()

    yield ask
    handle.remove()


def test_scores_weights_and_times_are_those_of_the_folders(asked):
    """COFI-40: what is counted in tensors, recorded by the run, and timed in turns; dense over pruned is a speed-up."""
    status, said, errors = asked("pruned", "--dense", "dense", "--json")
    assert status == 0, errors
    found = json.loads(said)
    (row,), whole = found["models"], 2 * (ATTENTION + FFN)
    assert found["dense"]["weights"] == whole
    assert row["weights"] == ATTENTION + FFN and row["sparsity"] == pytest.approx(1 - (ATTENTION + FFN) / whole)
    biases = 2 * 3 * 8 + 32 + 16  # of half the heads, of one up and one down projection; and the skipped norm
    assert found["dense"]["parameters"] - row["parameters"] == ATTENTION + FFN + biases + 2 * 16
    assert (row["scores"], found["dense"]["scores"]) == ({"accuracy": 0.5}, {"accuracy": 0.75})
    for batch in model_pairs.BATCHES:
        assert row[f"speedup_batch{batch}"] == 3.0
        assert row[f"dense_ms_batch{batch}"] == dict.fromkeys(("p50", "p90", "p95"), 3e3)
        assert row[f"pruned_ms_batch{batch}"] == dict.fromkeys(("p50", "p90", "p95"), 1e3)
    wanted = {"device": "cpu", "dtype": "float32", "length": 8, "rounds": 3, "attention": "sdpa", "padding": "none"}
    assert found["setting"].items() >= wanted.items() and {"commit", "versions", "hardware"} <= found.keys()
    assert found["command"].startswith("python benchmarks/cofi_models.py --rounds 3")


def test_the_tables_say_which_scores_are_not_of_the_same_data(asked):
    status, said, _ = asked("pruned", "elsewhere", "--dense", "dense", "--batches", "2")
    assert status == 0
    rows = [" ".join(line.split()) for line in said.splitlines()]
    assert rows[0] == "model weights gone parameters accuracy f1"
    assert rows[3].startswith("pruned 2,048 50.00% ") and rows[3].endswith(" 0.5000 -")
    assert rows[4].startswith("elsewhere ") and rows[4].endswith(" - 0.2500")
    assert "pruned 2 3.00 3.00-3.00 3000.00 3000.00 1000.00 1000.00" in rows
    assert "not scored on the dense model's data: elsewhere" in rows


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pruned", "--dense", "pruned"], ["CompactBertForSequenceClassification", "expected a stock class"]),
        (["masked words", "--dense", "dense"], ["BertForMaskedLM", "BertForSequenceClassification", "the same"]),
        (["narrow", "--dense", "dense"], ["sizes", "intermediate=32", "intermediate=16"]),
        (["pruned", "nowhere", "--dense", "dense"], ["nowhere"]),
        (["pruned", "--dense", "dense", "--length", "25"], ["up to 24 tokens", "--length is 25", "lower it"]),
        (["pruned", "--dense", "file"], ["file"]),
    ],
    ids=["dense is pruned", "other head", "other sizes", "missing", "long rows", "no folder"],
)
def test_models_that_cannot_be_compared_are_refused_before_any_is_timed(asked, monkeypatch, arguments, words):
    monkeypatch.setattr(model_pairs, "timed", None)
    status, said, errors = asked(*arguments)
    assert status == 1 and not said
    (line,) = [line for line in errors.splitlines() if line.startswith("error:")]
    assert all(word in line for word in words), line
