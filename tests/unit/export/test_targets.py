"""Patterns, allocations and overrides in exported folders: what is written down, and what verify holds against it."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ofa.config import RunConfig, load
from ofa.export.count import count
from ofa.export.hf import export_model
from ofa.export.masks_file import MaskFileError, encode_masks, read_masks, read_patterns, write_masks
from ofa.export.recipe_file import describe_run, read_recipe
from ofa.export.verify import verify_folder
from ofa.models.adapters import scope
from ofa.pruning.allocation import ranking_groups
from ofa.pruning.ranking import select_whole

QUERY = "bert.encoder.layer.0.attention.self.query.weight"
STEPS = 1000
"""Of the run whose config is taken."""

OVERRIDES = [
    {"match": r"layer\.0\.attention", "sparsity": 0.5, "pattern": "2:4"},
    {"match": "pooler", "sparsity": 0.0},
    {"match": "output.dense", "sparsity": 0.6, "allocation": "global"},
]
CASES = {
    "2:4": {"pattern": "2:4", "sparsity": 0.5},
    "2:4 global": {"pattern": "2:4", "sparsity": 0.5, "allocation": "global"},
    "4x1": {"pattern": "4x1"},
    "1x4 global": {"pattern": "1x4", "allocation": "global"},
    "erk": {"allocation": "erk"},
    "global": {"allocation": "global"},
    "mixed": {"overrides": OVERRIDES},
}


@pytest.fixture
def pruned(tmp_path, sparse_model, tokenizer_folder):
    """Factory of exported folders: `pruned(changes of the pruning section, remaining ramp, steps)`."""

    def make(remaining=0.0, steps=STEPS, **changes):
        config = load(RunConfig, "tiny/ofa_90.json", [f"pruning.{key}={json.dumps(v)}" for key, v in changes.items()])
        model, _ = sparse_model(sparsity=0.0)
        weights = scope(model)
        groups = ranking_groups(config.pruning, {name: weight.shape for name, weight in weights.items()})
        keep = select_whole(groups, weights, [group.sparsity(remaining) for group in groups])
        with torch.no_grad():
            for name, weight in weights.items():
                weight.mul_(keep[name])
        recipe = describe_run(
            config, name="test", steps=steps, parents=[], data={"name": "text", "fingerprint": "ab"}, versions={}
        )
        export_model(tmp_path / "model", model, tokenizer_folder, keep, recipe)
        return tmp_path / "model"

    return make


def kinds(folder, expect=None):
    """{(kind, where)} of what verify finds."""
    return {(problem.kind, problem.where) for problem in verify_folder(folder, expect).problems}


def rewrite(folder, name, edit):
    """Change one tensor and its mask alike: `edit(weight, keep)`."""
    tensors, masks = load_file(folder / "model.safetensors"), read_masks(folder / "masks.safetensors")
    patterns = read_patterns(folder / "masks.safetensors")
    edit(tensors[name].view(-1), masks[name].view(-1))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    write_masks(folder / "masks.safetensors", masks, patterns)


@pytest.mark.parametrize("case", CASES)
def test_a_sound_folder_of_every_pattern_and_allocation_passes(pruned, case):
    """OFA-7"""
    folder = pruned(**CASES[case])
    assert verify_folder(folder).problems == []
    assert verify_folder(folder, CASES[case].get("sparsity", 0.9)).problems == []


@pytest.mark.parametrize("case", CASES)
def test_recipe_and_masks_say_pattern_and_allocation(pruned, case):
    folder = pruned(**CASES[case])
    recipe, patterns = read_recipe(folder), read_patterns(folder / "masks.safetensors")
    assert recipe["allocation"] == CASES[case].get("allocation", "uniform")
    if case == "mixed":
        assert recipe["pattern"] == "mixed" and patterns[QUERY] == "2:4"
        assert sum(pattern == "2:4" for pattern in patterns.values()) == 4
    else:
        expected = CASES[case].get("pattern", "unstructured")
        assert recipe["pattern"] == expected and set(patterns.values()) == {expected}


@pytest.mark.parametrize("case", ["2:4", "4x1", "1x4 global", "mixed"])
def test_a_weight_that_moves_into_another_unit_breaks_the_pattern_though_every_count_is_right(pruned, case):
    """OFA-7"""
    folder = pruned(**CASES[case])

    def move(weight, keep):
        dead = int((~keep).nonzero()[0])
        alive = int(keep.nonzero()[-1])
        weight[[dead, alive]], keep[[dead, alive]] = weight[[alive, dead]], keep[[alive, dead]]

    rewrite(folder, QUERY, move)
    found = kinds(folder)
    assert ("broken-pattern", QUERY) in found
    assert not {kind for kind, _ in found} & {"wrong-count", "not-zeroed", "zero-not-dropped"}


def test_one_weight_less_in_a_global_ranking_makes_the_total_wrong(pruned):
    """OFA-6"""
    folder = pruned(allocation="global")
    rewrite(folder, QUERY, drop_one)
    found = verify_folder(folder)
    assert ("wrong-count", "13 tensors ranked together") in {(p.kind, p.where) for p in found.problems}
    assert any("(+1)" in problem.what for problem in found.problems)
    assert all(row.surplus is None for row in found.rows)


def drop_one(weight, keep):
    """One live weight dies, in the mask too."""
    alive = int(keep.nonzero()[0])
    weight[alive], keep[alive] = 0.0, False


def test_overrides_are_held_to_their_own_sparsity(pruned):
    folder = pruned(overrides=OVERRIDES)
    counts = {row.name: row for row in verify_folder(folder).rows}
    assert counts[QUERY].count.sparsity == 0.5 and counts[QUERY].surplus == 0
    assert counts["bert.pooler.dense.weight"].count.zeros == 0
    rewrite(folder, "bert.pooler.dense.weight", drop_one)
    assert ("wrong-count", "bert.pooler.dense.weight") in kinds(folder)


def test_a_finished_run_is_held_to_its_recipe_without_being_asked(pruned):
    folder = pruned()
    rewrite(folder, QUERY, drop_one)
    assert ("wrong-count", QUERY) in kinds(folder)


def test_a_model_from_the_middle_of_its_ramp_is_held_to_its_pattern_only(pruned):
    folder = pruned(remaining=0.5, steps=300, **CASES["4x1"])
    assert verify_folder(folder).problems == []
    assert {kind for kind, _ in kinds(folder, 0.9)} == {"wrong-count"}


def test_an_expected_sparsity_that_the_pattern_cannot_have_is_named(pruned):
    (problem,) = [p for p in verify_folder(pruned(**CASES["2:4"]), 0.9).problems if p.where == "pruning"]
    assert "does not allow sparsity 0.9" in problem.what and "2:4 means sparsity 0.5" in problem.what


def test_a_recipe_that_says_another_pattern_than_the_masks_is_found(pruned):
    folder = pruned(**CASES["2:4"])
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["config"]["pruning"] |= {"pattern": "1:2"}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    assert ("recipe-disagrees", QUERY) in kinds(folder)


@pytest.mark.parametrize("change", [{"sparsity": "much"}, {"overrides": [{"match": "nothing", "sparsity": 0.5}]}])
def test_a_recipe_whose_pruning_section_serves_nobody_is_found(pruned, change):
    folder = pruned()
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["config"]["pruning"] |= change
    (folder / "recipe.json").write_text(json.dumps(recipe))
    assert ("recipe-disagrees", "pruning") in kinds(folder)


def test_a_mask_whose_shape_its_pattern_does_not_divide_is_found(pruned):
    folder = pruned(**CASES["2:4"])
    masks = read_masks(folder / "masks.safetensors")
    patterns = dict.fromkeys(masks, "3x1")
    write_masks(folder / "masks.safetensors", masks, patterns)
    assert ("broken-pattern", QUERY) in kinds(folder)


# ---- the file ---------------------------------------------------------------------------------------------------


def test_patterns_come_back_and_equal_masks_give_equal_bytes(tmp_path):
    keep = {name: torch.ones(4, 8, dtype=torch.bool) for name in ("b", "a")}
    patterns = {"a": "2:4", "b": "4x1"}
    write_masks(tmp_path / "masks", keep, patterns)
    assert read_patterns(tmp_path / "masks") == patterns
    data = (tmp_path / "masks").read_bytes()
    assert all(encode_masks(keep, dict(reversed(patterns.items()))) == data for _ in range(5))
    with safe_open(tmp_path / "masks", "numpy") as file:
        assert list(file.metadata()) and json.loads(file.metadata()["patterns"]) == patterns


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'\\"2:4\\"', b'\\"0:4\\"'), (b'"patterns"', b'"pattern5"'), (b'{\\"a\\": \\"2:4\\"}', b'{\\"b\\": \\"2:4\\"}')],
)
def test_a_pattern_that_is_none_or_of_another_tensor_is_refused(tmp_path, old, new):
    data = encode_masks({"a": torch.ones(4, 8, dtype=torch.bool)}, {"a": "2:4"})
    assert old in data
    (tmp_path / "masks").write_bytes(data.replace(old, new))
    with pytest.raises(MaskFileError, match="pattern"):
        read_masks(tmp_path / "masks")


def test_files_of_earlier_versions_are_of_single_weights(tmp_path):
    data = encode_masks({"a": torch.ones(4, 8, dtype=torch.bool)})
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    del header["__metadata__"]["patterns"]
    text = json.dumps(header).encode()
    (tmp_path / "masks").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert read_patterns(tmp_path / "masks") == {"a": "unstructured"}
    assert read_masks(tmp_path / "masks")["a"].all()


def test_zeros_of_each_tensor_are_those_of_the_allocation(pruned):
    """ERK by itself: verify would pass a uniform model too if it did not ask for its shares."""
    folder = pruned(**CASES["erk"])
    zeros = {name: count(tensor).sparsity for name, tensor in load_file(folder / "model.safetensors").items()}
    assert zeros[QUERY] < zeros["bert.encoder.layer.0.intermediate.dense.weight"] - 0.02
