"""verify finds each kind of damage and names it; sound folders, ours and others', pass."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from ofa.export.masks_file import MaskFileError, encode_masks, read_masks, write_masks
from ofa.export.verify import verify_folder
from ofa.export.verify_masks import check_masks
from ofa.export.verify_table import verification_table
from ofa.models.adapters import scope
from tests.processes import script
from tests.selection import keep_largest

QUERY = "bert.encoder.layer.1.attention.self.query.weight"


def problems(folder, expect=0.9):
    """{(kind, where)} of what verify finds."""
    return {(problem.kind, problem.where) for problem in verify_folder(folder, expect).problems}


def change(folder, name, edit):
    """Edit one tensor of the weights file in place."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors[name].view(-1))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def first(tensor, wanted):
    """Flat index of the first weight that is (not) zero."""
    return int(((tensor != 0) == wanted).nonzero()[0])


def test_a_sound_folder_passes_and_its_table_counts_every_tensor(exported):
    found = verify_folder(exported, 0.9)
    assert found.problems == [] and found.has_masks
    assert len(found.rows) == 13 and all(row.surplus == 0 for row in found.rows)
    text = verification_table(found)
    for words in ("scope zeros: 89.9644%", "46 of 46 tensors compared", "is what it says it is"):
        assert words in text


def test_a_weight_that_came_back_is_found(exported):
    change(exported, QUERY, lambda weight: weight.__setitem__(first(weight, False), 0.25))
    assert problems(exported) >= {("not-zeroed", QUERY), ("wrong-count", QUERY), ("recipe-disagrees", QUERY)}


def test_one_zero_too_many_is_found(exported):
    change(exported, QUERY, lambda weight: weight.__setitem__(first(weight, True), 0.0))
    assert problems(exported) >= {("zero-not-dropped", QUERY), ("wrong-count", QUERY)}


def test_a_zero_that_moved_is_found_though_all_counts_are_right(exported):
    def swap(weight):
        dead, alive = first(weight, False), first(weight, True)
        weight[[dead, alive]] = weight[[alive, dead]].clone()

    change(exported, QUERY, swap)
    found = problems(exported)
    assert found >= {("not-zeroed", QUERY), ("zero-not-dropped", QUERY)} and ("wrong-count", QUERY) not in found


@pytest.mark.parametrize("name", [QUERY, "bert.embeddings.word_embeddings.weight"])
def test_a_negative_zero_is_found(exported, name):
    change(exported, name, lambda weight: weight.__setitem__(int(weight.abs().argmin()), -0.0))
    assert ("negative-zero", name) in problems(exported)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_found(exported, value):
    change(exported, QUERY, lambda weight: weight.__setitem__(first(weight, True), value))
    assert ("not-finite", QUERY) in problems(exported)


def test_any_change_of_a_live_weight_is_found(exported):
    change(exported, QUERY, lambda weight: weight.__setitem__(first(weight, True), 0.125))
    assert problems(exported) == {("changed-file", "model.safetensors")}


@pytest.fixture(scope="module")
def masked(sparse_model, tmp_path_factory):
    """(mask file's bytes, weights, a path to write to)."""
    model, keep = sparse_model()
    weights = {name: weight.detach() for name, weight in scope(model).items()}
    return encode_masks(keep), weights, tmp_path_factory.mktemp("flipped") / "masks.safetensors"


@settings(max_examples=300, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), in_bits=st.booleans())
def test_any_flipped_bit_of_the_mask_file_is_found(masked, place, in_bits):
    data, weights, path = masked
    begin = 8 + int.from_bytes(data[:8], "little") if in_bits else 0
    bit = 8 * begin + int(place * 8 * (len(data) - begin))
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    path.write_bytes(flipped)
    try:
        masks = read_masks(path)
    except MaskFileError:
        return
    assert list(check_masks(masks, weights, list(weights)))


def test_a_flipped_mask_bit_is_named_with_its_tensor(exported):
    keep = read_masks(exported / "masks.safetensors")
    keep[QUERY].view(-1)[0] ^= True
    write_masks(exported / "masks.safetensors", keep)
    assert problems(exported) & {("not-zeroed", QUERY), ("zero-not-dropped", QUERY)}


def test_a_mask_of_another_shape_is_found(exported):
    keep = read_masks(exported / "masks.safetensors")
    keep[QUERY] = keep[QUERY].reshape(16, 64)
    write_masks(exported / "masks.safetensors", keep)
    assert ("mask-shape", QUERY) in problems(exported)


def test_a_missing_mask_and_a_mask_outside_the_scope_are_found(exported):
    """OFA-9: a mask on an embedding is an error."""
    keep, other = read_masks(exported / "masks.safetensors"), "bert.embeddings.word_embeddings.weight"
    keep[other] = torch.ones(64, 32, dtype=torch.bool)
    del keep[QUERY]
    write_masks(exported / "masks.safetensors", keep)
    assert problems(exported) >= {("missing-mask", QUERY), ("mask-outside-scope", other)}


@pytest.mark.parametrize("size", [0, 7, 100, 5000, -1])
def test_weights_cut_short_are_found(exported, size):
    data = (exported / "model.safetensors").read_bytes()
    (exported / "model.safetensors").write_bytes(data[:size])
    assert "damaged-weights" in {kind for kind, _ in problems(exported)}


@pytest.mark.parametrize("name", ["masks.safetensors", "recipe.json"])
@pytest.mark.parametrize("size", [0, 9, -2])
def test_side_files_cut_short_are_found(exported, name, size):
    (exported / name).write_bytes((exported / name).read_bytes()[:size])
    kind = "damaged-masks" if name == "masks.safetensors" else "damaged-recipe"
    assert (kind, name) in problems(exported)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.safetensors", "damaged-weights"),
        ("masks.safetensors", "missing-file"),
        ("recipe.json", "missing-file"),
        ("vocab.txt", "missing-file"),
    ],
)
def test_a_missing_file_is_found(exported, name, kind):
    (exported / name).unlink()
    assert kind in {problem.kind for problem in verify_folder(exported, 0.9).problems}


def test_a_missing_config_is_an_error_that_names_it(exported):
    (exported / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json cannot be used"):
        verify_folder(exported)


def test_a_missing_tensor_is_found(exported):
    tensors = load_file(exported / "model.safetensors")
    del tensors[QUERY]
    save_file(tensors, exported / "model.safetensors", {"format": "pt"})
    assert problems(exported) >= {("missing-tensor", QUERY), ("reload", QUERY)}


def test_a_tensor_that_the_stock_class_does_not_know_is_found(exported):
    tensors = load_file(exported / "model.safetensors")
    tensors["bert.encoder.layer.0.gate.weight"] = torch.ones(3)
    save_file(tensors, exported / "model.safetensors", {"format": "pt"})
    assert ("reload", "bert.encoder.layer.0.gate.weight") in problems(exported)


def test_another_sparsity_than_expected_is_found_in_every_tensor(exported):
    found = problems(exported, expect=0.85)
    assert len([where for kind, where in found if kind == "wrong-count"]) == 13
    assert ("recipe-disagrees", "target_sparsity") in found


def test_a_recipe_that_says_something_else_is_found(exported):
    recipe = json.loads((exported / "recipe.json").read_text())
    recipe["scope"]["tensors"][QUERY]["zeros"] += 1
    (exported / "recipe.json").write_text(json.dumps(recipe))
    assert ("recipe-disagrees", QUERY) in problems(exported)


POOLER = "bert.pooler.dense.weight"


def relock(folder, edit):
    """Edit the lock section of a recipe in place."""
    recipe = json.loads((folder / "recipe.json").read_text())
    edit(recipe["lock"])
    (folder / "recipe.json").write_text(json.dumps(recipe))


@pytest.mark.parametrize("expect", [None, 0.9])
def test_a_locked_task_model_with_a_drawn_pooler_passes(exported_task, expect):
    """The pooler that the base lacked has no mask, and --expect-sparsity does not count it."""
    found = verify_folder(exported_task(), expect)
    assert found.problems == [] and f"not locked, because the base did not have it: {POOLER}" in found.notes
    assert [row.surplus for row in found.rows if row.name == POOLER] == [None]


def test_a_locked_model_of_another_sparsity_is_found_in_its_masked_tensors_only(exported_task):
    wrong = {where for kind, where in problems(exported_task(), 0.8) if kind == "wrong-count"}
    assert len(wrong) == 12 and POOLER not in wrong


@pytest.mark.parametrize("how", ["pruned", "dense"])
def test_a_task_model_without_a_lock_passes(exported_task, how):
    assert verify_folder(exported_task(how=how)).problems == []


def test_a_locked_tensor_without_its_mask_is_found(exported_task):
    folder = exported_task()
    keep = read_masks(folder / "masks.safetensors")
    del keep[QUERY]
    write_masks(folder / "masks.safetensors", keep)
    assert problems(folder) >= {("missing-mask", QUERY), ("lock-disagrees", "masks.safetensors")}


def test_a_mask_of_a_tensor_that_was_not_locked_is_found(exported_task):
    folder = exported_task()
    relock(folder, lambda lock: lock["patterns"].pop(QUERY))
    assert ("lock-disagrees", QUERY) in problems(folder)


def test_masks_and_weights_that_moved_together_are_found_by_the_locks_hash(exported_task):
    folder = exported_task()
    keep = read_masks(folder / "masks.safetensors")
    keep[QUERY].view(-1)[first(keep[QUERY].view(-1), True)] = False
    write_masks(folder / "masks.safetensors", keep)
    change(folder, QUERY, lambda weight: weight.mul_(keep[QUERY].view(-1)))
    found = problems(folder, None)
    assert ("lock-disagrees", "masks.safetensors") in found and not {"not-zeroed", "zero-not-dropped"} & dict(
        found
    ).keys()


@pytest.mark.parametrize("lock", [[], {}, {"mask_hash": 3, "patterns": {}}, {"mask_hash": "a", "patterns": {"b": "c"}}])
def test_a_lock_section_that_is_none_is_a_damaged_recipe(exported_task, lock):
    folder = exported_task()
    recipe = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps({**recipe, "lock": lock}))
    assert ("damaged-recipe", "recipe.json") in problems(folder)


def released(folder, model, sparsity):
    """A folder as others have released them: pytorch_model.bin, -0.0, an old buffer, no masks."""
    with torch.no_grad():
        for weight in scope(model).values():
            weight.mul_(keep_largest(weight.abs(), sparsity))
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    state = model.state_dict()
    base = f"{model.base_model_prefix}.embeddings.position_ids"
    torch.save({**state, base: torch.arange(16)[None]}, folder / "pytorch_model.bin")
    return folder


SIZES = {"vocab_size": 64, "max_position_embeddings": 18}
LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def other_models():
    """One small model of each other architecture."""
    torch.manual_seed(0)
    return [
        DistilBertForMaskedLM(DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, **SIZES)),
        RobertaForMaskedLM(RobertaConfig(**SIZES, **LAYERS)),
    ]


@pytest.mark.parametrize("number", [0, 1])
def test_a_released_checkpoint_without_masks_is_counted_against_the_scope(tmp_path, number):
    folder = released(tmp_path, other_models()[number], 0.85)
    found = verify_folder(folder, 0.85)
    assert found.problems == [] and not found.has_masks
    assert len(found.rows) == 12
    assert any("zeros are counted against the architecture's scope" in note for note in found.notes)
    assert {problem.kind for problem in verify_folder(folder, 0.9).problems} == {"wrong-count"}


def test_a_released_bert_with_its_pooler_passes(tmp_path, sparse_model):
    found = verify_folder(released(tmp_path, sparse_model()[0], 0.9), 0.9)
    assert found.problems == [] and len(found.rows) == 13


def test_a_bin_file_that_executes_code_is_not_loaded(tmp_path, sparse_model):
    folder = released(tmp_path, sparse_model()[0], 0.9)
    torch.save({"bert.x": Path("/")}, folder / "pytorch_model.bin")
    assert "damaged-weights" in {kind for kind, _ in problems(folder)}


def test_a_bare_encoder_without_prefix_is_counted(tmp_path, sparse_model):
    model, _ = sparse_model()
    model.bert.save_pretrained(tmp_path)
    found = verify_folder(tmp_path, 0.9)
    assert found.problems == [] and len(found.rows) == 13


def test_real_weights_with_legacy_layer_norm_names_reload(tmp_path):
    data = os.environ.get("OFA_TEST_DATA")
    if not data:
        pytest.skip("OFA_TEST_DATA is not set")
    subprocess.run(["tar", "xJf", f"{data}/models_tiny.tar.xz", "-C", str(tmp_path)], check=True)
    folder = next(path.parent for path in tmp_path.rglob("model.safetensors"))
    found = verify_folder(folder, 0.0)
    assert {problem.kind for problem in found.problems} <= {"reload"} and len(found.rows) == 12
    assert not [problem for problem in found.problems if "other bits" in problem.what]
    AutoModelForMaskedLM.from_pretrained(folder)


def launch(cwd, *arguments):
    """Run launch/verify.py as a user does."""
    return script("verify.py", *arguments, cwd=cwd, check=False)


def test_the_script_exits_0_on_a_sound_folder_from_any_directory(exported, tmp_path):
    done = launch(tmp_path, exported.parent, "--expect-sparsity", "0.9", "--local_rank=0")
    assert done.returncode == 0 and "ok: " in done.stdout, done.stderr


def test_the_script_exits_1_with_a_table_of_what_is_wrong(exported, tmp_path):
    change(exported, QUERY, lambda weight: weight.__setitem__(first(weight, False), 0.25))
    done = launch(tmp_path, exported, "--expect-sparsity", "0.9")
    assert done.returncode == 1 and f"not-zeroed        {QUERY}" in done.stdout and "Traceback" not in done.stderr


def test_the_script_names_a_folder_that_is_none_without_a_traceback(tmp_path):
    done = launch(tmp_path, tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr


def test_a_percentage_is_a_usage_error(tmp_path):
    done = launch(tmp_path, tmp_path, "--expect-sparsity", "90")
    assert done.returncode == 2 and "90 % is 0.9" in done.stderr
