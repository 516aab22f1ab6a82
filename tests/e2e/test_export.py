"""Exporting from the middle of a run, and over what is no export: what the commands say."""

import json
import re

import pytest

from tests.commands import command, overrides, refused
from tests.processes import script


@pytest.fixture(scope="module")
def kept(project):
    """A pruned run with all its checkpoints: its ramp ends at step 12 of 24, its last masks are chosen at step 18."""
    arguments = ("--config", "sparse.json", "--run-dir", "kept", "--set", "checkpoint.keep_last=9")
    script("pretrain.py", *arguments, cwd=project)
    return "kept"


def exported(project, run, step):
    """Export a checkpoint of a run and check it; the lines of both commands."""
    checkpoint, output = f"{run}/checkpoints/step-{step:08d}", f"at_{step}"
    made = command("export.py", run, "--checkpoint", checkpoint, "--output", output, cwd=project)
    checked = command("verify.py", output, cwd=project)
    assert (made.status, checked.status) == (0, 0), (made, checked)
    return made.out.splitlines(), checked.out.splitlines()


def test_a_model_from_the_ramp_is_called_one_by_every_command(project, kept):
    made, checked = exported(project, kept, 10)
    assert made[0] == "exported the model of step 10 of 24 to at_10"
    counted = re.fullmatch(r"pruning has not ended: (8[0-9.]+) % of 90 %, new masks until step 18", made[1])
    assert counted and made[2] == "check it with: python launch/verify.py at_10"
    assert "from the middle of the run: step 10 of 24, before pruning ended; its target is 90 %" in checked
    title = (project / "at_10" / "README.md").read_text().splitlines()[0]
    assert f"{counted[1]} % unstructured, from step 10 of 24, before pruning ended" in title
    answer = command("verify.py", "at_10", "--expect-sparsity", "0.9", cwd=project)
    assert answer.status == 1 and "pruning had not ended at step 10 of 24" in answer.out


def test_a_model_after_pruning_has_its_target_and_its_step(project, kept):
    made, checked = exported(project, kept, 20)
    assert made == [
        "exported the model of step 20 of 24 to at_20",
        "check it with: python launch/verify.py at_20",
    ]
    assert "from the middle of the run: step 20 of 24, after pruning ended; its target is 90 %" in checked
    assert command("verify.py", "at_20", "--expect-sparsity", "0.9", cwd=project).status == 0


def test_a_run_that_names_a_type_alone_is_exported_with_the_sizes_of_its_init(project):
    """The sizes of BERT-base, which the type stands for, would fit no weight."""
    changes = overrides('model.architecture={"model_type": "bert"}', "checkpoint.keep_last=9")
    script("pretrain.py", "--config", "sparse.json", "--run-dir", "by_type", *changes, cwd=project)
    made, _ = exported(project, "by_type", 20)
    assert made[0] == "exported the model of step 20 of 24 to at_20"
    assert json.loads((project / "at_20" / "config.json").read_text())["hidden_size"] == 32


def test_a_dense_run_that_is_expected_to_be_sparse_is_called_dense(project):
    answer = command("verify.py", "runs/teacher", "--expect-sparsity", "0.9", cwd=project)
    assert answer.status == 1 and "1/numel" not in answer.out
    assert "dense: 0 of " in answer.out and "weights are zero, expected 90 %; " in answer.out


WRONG = {
    "over other things": (["runs/teacher", "--output", "data"], ["recipe.json): choose another --output, or move it"]),
    "a model folder": (["runs/teacher/model"], ["model is the exported model of a run", "folder, runs/teacher"]),
    "a file": (["sparse.json"], ["sparse.json is a file; expected a run folder"]),
    "nothing": (["nowhere"], ["nowhere: no such folder; expected a run folder"]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_exported_is_refused_with_what_to_do_first(project, kind):
    arguments, words = WRONG[kind]
    refused(project, *arguments, words=words, script_name="export.py")


@pytest.mark.parametrize("name", ["verify.py", "report.py"])
def test_a_file_in_place_of_a_folder_is_called_a_file(project, name):
    refused(project, "sparse.json", words=["sparse.json is a file; expected a run"], script_name=name)


def test_help_says_which_folders_each_command_takes(project):
    said = " ".join(command("export.py", "--help", cwd=project).out.split())
    assert "DIR the folder of a run that pre-trains; with --format a task model" in said
    assert "or prepared data" in " ".join(command("verify.py", "--help", cwd=project).out.split())
