"""A model from the middle of its run says so: on its card, in verify, and where it is compared with the target."""

import json

import pytest
import torch

from ofa.config import RunConfig, load
from ofa.export.hf import export_model
from ofa.export.recipe_file import describe_run, read_recipe
from ofa.export.stage import recorded_stage, stage_lines
from ofa.export.targets import TargetError
from ofa.export.verify import verify_folder
from ofa.export.verify_table import verification_table

DENSE = "tiny/teacher.json"
OVERRIDES = ['pruning.overrides=[{"match": "pooler", "sparsity": 0.5}]']


@pytest.fixture
def made(tmp_path, sparse_model, tokenizer_folder):
    """Factory of exported folders: `made(step of the 1,000, sparsity, config, overrides)`."""

    def make(steps, sparsity=0.9, config="tiny/ofa_90.json", overrides=()):
        model, keep = sparse_model(sparsity=sparsity)
        run = load(RunConfig, config, list(overrides))
        steps = run.schedule.total_steps if steps is None else steps
        recipe = describe_run(
            run, name="a/run", steps=steps, parents=[], data={"name": "text", "fingerprint": "ab"}, versions={}
        )
        keep = keep if run.pruning else {}
        with torch.no_grad():
            export_model(tmp_path / "model", model, tokenizer_folder, keep, recipe)
        return tmp_path / "model"

    return make


def card(folder):
    """The model card on one line."""
    return " ".join((folder / "README.md").read_text().split())


def said(folder, expect=None):
    """What verify prints."""
    return verification_table(verify_folder(folder, expect))


def test_the_card_of_a_model_from_the_ramp_says_what_is_counted_and_where_it_is_from(made):
    text = card(made(320, 0.858))
    assert text.startswith(
        "# a/run: sparse pre-trained bert, 85.8 % unstructured, from step 320 of 1,000, before pruning ended"
    )
    assert "pruned to 85.8 % zeros" in text and "pruned to 90 %" not in text
    assert "Its target is 90 %" in text and "* 320 of 1,000 steps of" in text


def test_the_card_of_a_model_after_pruning_says_that_training_went_on(made):
    text = card(made(900))
    assert text.startswith("# a/run: sparse pre-trained bert, 90 % unstructured, from step 900 of 1,000, after pruning")
    assert "pruned to 90 % zeros" in text and "zeros are final" in text


@pytest.mark.parametrize("config", ["tiny/ofa_90.json", DENSE])
def test_the_card_of_a_finished_run_speaks_of_no_stage(made, config):
    text = card(made(None, 0.9 if config != DENSE else 0.0, config))
    for words in ("from step", "pruning ended", " of 1,000 steps", "target is"):
        assert words not in text


def test_the_card_of_a_dense_run_that_goes_on_says_its_step(made):
    text = card(made(100, 0.0, DENSE))
    total = load(RunConfig, DENSE).schedule.total_steps
    assert text.startswith(f"# a/run: pre-trained bert, dense, from step 100 of {total:,}")
    assert "pruning" not in text


def test_the_recipe_holds_steps_done_and_total(made):
    recipe = read_recipe(made(320, 0.858))
    assert (recipe["steps"], recipe["config"]["schedule"]["total_steps"]) == (320, 1000)


def test_the_export_says_how_far_the_run_was_and_how_sparse_against_its_target(made):
    first, second = stage_lines(read_recipe(made(320, 0.858)))
    assert first == "step 320 of 1,000"
    assert second == "pruning has not ended: 85.8 % of 90 %, new masks until step 800"
    assert stage_lines(read_recipe(made(1000))) == ["step 1,000 of 1,000"]
    assert stage_lines(read_recipe(made(100, 0.0, DENSE)))[1:] == []


def test_a_target_with_overrides_is_named_as_one(made):
    assert "of 90 % (1 override(s) aside), " in stage_lines(read_recipe(made(320, 0.8, overrides=OVERRIDES)))[1]


def test_verify_says_that_a_sound_model_is_from_the_middle(made):
    found = verify_folder(made(320, 0.858))
    assert found.problems == []
    text = verification_table(found)
    assert "from the middle of the run: step 320 of 1,000, before pruning ended; its target is 90 %\n" in text
    assert "is what it says it is" in text


def test_verify_says_nothing_of_the_kind_of_a_finished_model(made):
    assert "middle of the run" not in said(made(1000), 0.9)


def test_an_expected_target_that_the_ramp_has_not_reached_is_one_problem_with_its_cause(made):
    found = verify_folder(made(320, 0.858), 0.9)
    (problem,) = found.problems
    assert (problem.kind, problem.where) == ("wrong-count", "13 tensors")
    assert "85.8 % zeros, expected 90 %: pruning had not ended at step 320 of 1,000" in problem.what
    assert "1 problem\n" in verification_table(found) + "\n"


@pytest.mark.parametrize(("step", "expect"), [(320, 0.5), (1000, 0.9)])
def test_what_the_ramp_does_not_explain_is_listed_tensor_by_tensor(made, step, expect):
    problems = [p for p in verify_folder(made(step, 0.858), expect).problems if p.kind == "wrong-count"]
    assert len(problems) == 13 and not any("pruning had not ended" in problem.what for problem in problems)


def test_a_dense_model_that_is_expected_to_be_sparse_is_called_dense(made):
    (problem,) = verify_folder(made(None, 0.0, DENSE), 0.9).problems
    assert (problem.kind, problem.where) == ("wrong-count", "13 tensors")
    assert problem.what.startswith("dense: 0 of 17408 weights are zero, expected 90 %; ")
    assert "its run does not prune" in problem.what


def test_a_dense_model_of_others_is_called_dense_without_a_word_on_its_run(tmp_path, sparse_model):
    sparse_model(sparsity=0.0)[0].save_pretrained(tmp_path)
    (problem,) = verify_folder(tmp_path, 0.9).problems
    assert problem.what == "dense: 0 of 17408 weights are zero, expected 90 %"


def test_a_missing_zero_is_told_in_weights(made):
    for problem in verify_folder(made(1000, 0.858), 0.9).problems:
        assert problem.what.endswith(")") and "1/numel" not in problem.what
    assert "1/numel" not in said(made(1000))


@pytest.mark.parametrize("change", [{"steps": "many"}, {"steps": None}, {"config": {}}, {"config": {"schedule": 7}}])
def test_a_recipe_that_does_not_say_its_steps_has_no_stage(made, change):
    folder = made(320, 0.858)
    recipe = json.loads((folder / "recipe.json").read_text()) | change
    assert recorded_stage(recipe) is None and stage_lines(recipe) == []
    (folder / "recipe.json").write_text(json.dumps(recipe))
    assert verify_folder(folder).problems == []


def test_a_damaged_pruning_section_has_no_stage_either(made):
    recipe = read_recipe(made(320, 0.858))
    recipe["config"]["pruning"]["sparsity"] = "much"
    with pytest.raises(TargetError, match="damaged"):
        recorded_stage(recipe)
