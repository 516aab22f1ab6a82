"""In-training checkpoints of the published implementation: imported to the bit, or refused with the reason."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ofa.export.count import same_bits
from ofa.export.from_reference import ReferenceFormatError, export_reference
from ofa.export.hf import ExportError
from ofa.export.masks_file import read_masks
from ofa.export.recipe_file import read_recipe
from ofa.export.verify import verify_folder
from ofa.models.adapters import scope
from ofa.pruning.lock import locked_masks
from tests import released
from tests.commands import command

QUERY = "bert.encoder.layer.1.attention.self.query"


def in_training(state, pruned, seed=0):
    """(state dict while training, masks): wrapped Linears with stale dense weights, the teacher among the buffers."""
    generator = torch.Generator().manual_seed(seed)
    wrapped, masks = {}, {}
    for name, tensor in state.items():
        if name not in pruned:
            wrapped[name] = tensor
            continue
        at = name.removesuffix(".weight")
        masks[name] = torch.rand(tensor.shape, generator=generator) > 0.9
        wrapped[f"{at}.weight_original"] = torch.randn(tensor.shape, generator=generator)
        wrapped[f"{at}.weight_mask"] = masks[name].float()
    teacher = {f"_teacher.{name}": tensor + 1 for name, tensor in state.items()}
    return {**wrapped, **teacher}, masks


@pytest.fixture
def checkpoint(tmp_path):
    """(folder, state, masks) of a BERT in pre-training; its folder can be changed."""
    state, zeros = released.bert(released.SMALL, 0.5)
    wrapped, masks = in_training(state, zeros)
    folder = released.write_folder(tmp_path / "checkpoint-500", released.bert_config(released.SMALL), wrapped)
    return folder, wrapped, masks


def save(folder, state, name="pytorch_model.bin"):
    """Another state in its place."""
    torch.save(state, folder / name)


def test_weights_are_the_dense_ones_where_the_mask_is_1_and_plus_zero_elsewhere(checkpoint, tmp_path):
    """prune-ofa 3.5: bit for bit, with masks.safetensors of the same places; everything else untouched; no teacher."""
    folder, wrapped, masks = checkpoint
    export_reference(folder, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, mask in masks.items():
        expected = wrapped[name.replace(".weight", ".weight_original")].clone()
        expected[~mask] = 0.0
        assert same_bits(found[name], expected), name
    plain = [name for name in wrapped if name in found]
    assert len(plain) > 40 and all(same_bits(found[name], wrapped[name]) for name in plain)
    assert not [name for name in found if "teacher" in name or "mask" in name or "original" in name]
    saved = read_masks(tmp_path / "out" / "masks.safetensors")
    assert saved.keys() == masks.keys() and all(torch.equal(saved[name], masks[name]) for name in masks)


def test_the_folder_verifies_and_says_where_it_comes_from(checkpoint, tmp_path):
    folder, _, masks = checkpoint
    export_reference(folder, tmp_path / "out")
    result = verify_folder(tmp_path / "out")
    assert result.problems == [] and result.has_masks and "imported: in-training" in result.notes[0]
    imported = read_recipe(tmp_path / "out")["imported"]
    assert imported["file"] == "pytorch_model.bin" and imported["auto_class"] == "AutoModelForPreTraining"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "imported from an in-training checkpoint" in card and "pre-trained" not in card.splitlines()[0]
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == (folder / "vocab.txt").read_bytes()
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == released.SMALL.vocab


def test_it_can_be_locked_and_fine_tuned(checkpoint, tmp_path):
    """Its masks are those of its weights, in another head too."""
    folder, _, masks = checkpoint
    export_reference(folder, tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    keep = locked_masks(scope(model), read_masks(tmp_path / "out" / "masks.safetensors"), drawn={"classifier.weight"})
    assert all(torch.equal(keep[name], mask) for name, mask in masks.items())


def test_the_file_of_a_finished_training_is_taken_before_the_baked_model(checkpoint, tmp_path):
    folder, wrapped, _ = checkpoint
    (folder / "pytorch_model.bin").rename(folder / "raw_pytorch_model.bin")
    save(folder, {"bert.pooler.dense.bias": torch.zeros(3)})
    assert export_reference(folder, tmp_path / "out")["imported"]["file"] == "raw_pytorch_model.bin"


def test_a_task_model_keeps_its_head_and_what_was_not_pruned_has_a_mask_of_its_zeros(tmp_path):
    """The published configs of tasks leave the classifier out, some the pooler."""
    state, zeros = released.bert(released.SMALL, 0.5)
    state = {name: tensor for name, tensor in state.items() if not name.startswith("cls.")}
    state |= {"classifier.weight": torch.randn(3, released.SMALL.hidden), "classifier.bias": torch.randn(3)}
    pooler = state["bert.pooler.dense.weight"]
    wrapped, _ = in_training(state, zeros.keys() - {"bert.pooler.dense.weight"})
    config = {**released.bert_config(released.SMALL), "architectures": ["BertForSequenceClassification"]}
    config |= {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    folder = released.write_folder(tmp_path / "mnli", config, wrapped)
    export_reference(folder, tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert same_bits(model.classifier.weight.detach(), state["classifier.weight"]) and model.config.id2label[2] == "c"
    assert torch.equal(read_masks(tmp_path / "out" / "masks.safetensors")["bert.pooler.dense.weight"], pooler != 0)
    assert verify_folder(tmp_path / "out").problems == []


def test_distilbert_whose_head_was_pruned_by_the_published_config(tmp_path):
    """Its config names no head that DistilBERT has: a pruned transform is imported and said, a pruned tied decoder is
    what no stock model can hold."""
    state, zeros = released.distilbert(released.SMALL, 0.5)
    wrapped, _ = in_training(state, {*zeros, "vocab_transform.weight"})
    folder = released.write_folder(tmp_path / "distil", released.distilbert_config(released.SMALL), wrapped)
    recipe = export_reference(folder, tmp_path / "out")
    assert recipe["imported"]["unscoped"] == ["vocab_transform.weight"]
    assert verify_folder(tmp_path / "out").problems == []
    save(folder, in_training(state, {*zeros, "vocab_projector.weight"})[0])
    with pytest.raises(ReferenceFormatError, match="vocab_projector.weight is tied to distilbert.*not_to_prune"):
        export_reference(folder, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def without(*names):
    return lambda state: {name: tensor for name, tensor in state.items() if name not in names}


def with_value(name, change):
    return lambda state: {**state, name: change(state[name].clone())}


DAMAGE = {
    "released": (
        lambda state: {name: tensor for name, tensor in state.items() if "weight_" not in name},
        "is no in-training checkpoint .*...weight_original.*model.init",
    ),
    "no mask": (without(f"{QUERY}.weight_mask"), f"{QUERY}.weight_original but not {QUERY}.weight_mask"),
    "no weight": (without(f"{QUERY}.weight_original"), f"{QUERY}.weight_mask but not {QUERY}.weight_original"),
    "soft mask": (
        with_value(f"{QUERY}.weight_mask", lambda mask: mask.index_fill_(0, torch.tensor([2]), 0.5)),
        f"{QUERY}.weight_mask holds 48 values that are neither 0 nor 1, first 0.5",
    ),
    "mask not a number": (
        with_value(f"{QUERY}.weight_mask", lambda mask: mask.index_fill_(0, torch.tensor([2]), float("nan"))),
        "48 values that are neither 0 nor 1, first nan",
    ),
    "mask of another shape": (
        with_value(f"{QUERY}.weight_mask", lambda mask: mask[:5]),
        r"weight_mask is \[5, 48\], its weight \[48, 48\]",
    ),
    "weight missing": (without("bert.pooler.dense.bias"), "lacks 1 weights of BertForPreTraining: bert.pooler"),
    "quantised": (
        lambda state: {**state, f"{QUERY}.weight_fake_quant.scale": torch.ones(1)},
        "1 tensors that BertForPreTraining does not have: .*fake_quant.scale.*Quantised",
    ),
    "another size": (
        with_value("bert.pooler.dense.bias", lambda bias: bias[:7]),
        r"bert.pooler.dense.bias is \[7\], config.json makes it \[48\]",
    ),
    "untied": (
        with_value("cls.predictions.decoder.weight", lambda weight: weight + 1),
        "cls.predictions.decoder.weight is tied to bert.embeddings.word_embeddings.weight",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_no_such_checkpoint_is_refused(checkpoint, tmp_path, damage):
    folder, wrapped, _ = checkpoint
    change, words = DAMAGE[damage]
    save(folder, change(wrapped))
    with pytest.raises(ReferenceFormatError, match=words):
        export_reference(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_missing_beside_the_weights_is_named(checkpoint, tmp_path):
    folder, _, _ = checkpoint
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(json.dumps({**json.loads(config), "architectures": None}))
    with pytest.raises(ReferenceFormatError, match="config.json names no class; add"):
        export_reference(folder, tmp_path / "out")
    (folder / "config.json").unlink()
    with pytest.raises(ReferenceFormatError, match="has no config.json: copy"):
        export_reference(folder, tmp_path / "out")
    (folder / "config.json").write_text(config)
    for name in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()
    with pytest.raises(ReferenceFormatError, match="holds no tokenizer .*copy the files"):
        export_reference(folder, tmp_path / "out")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ReferenceFormatError, match="holds no weights; expected raw_pytorch_model.bin or"):
        export_reference(folder, tmp_path / "out")
    with pytest.raises(ReferenceFormatError, match="no such folder; expected a checkpoint folder"):
        export_reference(tmp_path / "nothing", tmp_path / "out")


def test_a_cut_file_and_an_occupied_place_are_refused(checkpoint, tmp_path):
    folder, _, _ = checkpoint
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("dear to somebody")
    with pytest.raises(ExportError, match="thesis exists and is no exported model"):
        export_reference(folder, tmp_path / "thesis")
    whole = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="pytorch_model.bin is damaged or cut short"):
        export_reference(folder, tmp_path / "out")


def test_the_commands_import_and_verify(checkpoint, tmp_path):
    """Exit status 0 of both; a folder too many, or no --output, is a usage error."""
    folder, _, masks = checkpoint
    done = command("export.py", "--from-reference", folder, "--output", "out", cwd=tmp_path)
    weights = sum(mask.numel() for mask in masks.values())
    assert done.status == 0 and done.out.startswith(
        f"imported pytorch_model.bin of {folder} to out\nscope: {weights:,}"
    )
    assert command("verify.py", "out", cwd=tmp_path).status == 0
    wrong = [("--from-reference", folder), (folder, "--from-reference", folder, "--output", "out"), ()]
    assert [command("export.py", *some, cwd=tmp_path).status for some in wrong] == [2] * 3
    save(folder, {"bert.pooler.dense.bias": torch.zeros(3)})
    refused = command("export.py", "--from-reference", folder, "--output", "other", cwd=tmp_path)
    assert refused.status == 1 and len(refused.lines_of_error()) == 1
