"""Zeros held against a base's, from the files alone (OFA-25, the lock part of OFA-37)."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DistilBertConfig, DistilBertForMaskedLM

from ofa.config import CHECKOUT
from ofa.export.same_zeros import ZerosError, compare_zeros
from tests.processes import script

QUERY = "bert.encoder.layer.1.attention.self.query.weight"
POOLER = "bert.pooler.dense.weight"


@pytest.fixture
def base(exported, tmp_path):
    """A copy of the exported model without what we put beside it, as others release theirs."""
    folder = shutil.copytree(exported, tmp_path / "base")
    for name in ("recipe.json", "masks.safetensors"):
        (folder / name).unlink()
    return folder


def change(folder, edit):
    """Edit the tensors of the weights file in place."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_moved_weights_with_the_bases_zeros_pass_and_are_counted(exported, base):
    """OFA-25: XOR 0, though no kept weight is what it was; -0.0 is a zero too."""
    change(
        exported, lambda tensors: [tensors[name].mul_(-1.5) for name in tensors if tensors[name].is_floating_point()]
    )
    found = compare_zeros(exported, str(base))
    assert not list(found.problems()) and found.tensors == 13 and found.places == 17408
    assert found.zeros + found.moved == found.places and "0 of 17,408 places differ in 13 tensors" in found.line


def test_a_zero_that_moved_is_one_lost_and_one_new(exported, base):
    def swap(tensors):
        weight = tensors[QUERY].view(-1)
        dead, alive = int((weight == 0).nonzero()[0]), int(weight.nonzero()[0])
        weight[[dead, alive]] = weight[[alive, dead]].clone()

    change(exported, swap)
    found = compare_zeros(exported, str(base))
    [problem] = found.problems()
    assert (problem.kind, problem.where) == ("other-zeros", QUERY)
    assert "1 zeros of" in problem.what and "1 zeros are new" in problem.what
    assert "2 of 17,408 places differ in 1 of 13 tensors" in found.line


def test_a_tensor_that_only_one_side_has_is_a_note(exported, base):
    change(base, lambda tensors: tensors.pop(POOLER))
    found = compare_zeros(exported, str(base))
    assert found.tensors == 12 and found.notes == [f"not compared, only {exported} has it: {POOLER}"]


def test_a_bare_encoders_names_are_those_with_the_prefix(exported, base, sparse_model):
    sparse_model()[0].bert.save_pretrained(base)
    assert compare_zeros(exported, str(base)).tensors == 13


def test_other_shapes_are_refused(exported, base):
    change(base, lambda tensors: tensors.update({QUERY: torch.zeros(32, 16)}))
    with pytest.raises(ZerosError, match=r"query.weight is \[32, 32\] here and \[32, 16\]"):
        compare_zeros(exported, str(base))


def test_compact_models_are_compared_with_compact_ones_alone(exported_task, base, tmp_path):
    compact = exported_task("rte", "compact")
    assert not list(compare_zeros(compact, str(shutil.copytree(compact, tmp_path / "same"))).problems())
    for ours, theirs in ((compact, base), (base, compact)):
        with pytest.raises(ZerosError, match=f"{compact} is a compact model and {base} is not: units were cut out"):
            compare_zeros(ours, str(theirs))


def test_another_number_of_layers_is_refused(exported, base):
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ZerosError, match="number of layers is 2 .* and 3"):
        compare_zeros(exported, str(base))


def test_another_architecture_is_refused(exported, tmp_path):
    sizes = {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    DistilBertForMaskedLM(DistilBertConfig(**sizes)).save_pretrained(tmp_path / "other")
    with pytest.raises(ZerosError, match="architecture is bert .* and distilbert"):
        compare_zeros(exported, str(tmp_path / "other"))


def launch(*arguments):
    """Run launch/verify.py as a user does."""
    return script("verify.py", *arguments, cwd=CHECKOUT, check=False)


def test_the_script_prints_one_line_and_exits_by_what_it_found(exported, base):
    done = launch(exported, "--same-zeros-as", base)
    assert done.returncode == 0 and f"zeros are those of {base}: 0 of 17,408 places" in done.stdout, done.stderr
    change(base, lambda tensors: tensors[QUERY].view(-1)[:3].fill_(1.0))
    done = launch(exported, "--same-zeros-as", base)
    assert done.returncode == 1 and f"other-zeros  {QUERY}" in done.stdout
