"""What is said of a run's folder where its model is wanted."""

import json

import pytest

from ofa.config import CofiConfig, CofiMlmConfig, FinetuneConfig, QatConfig, RunConfig, load
from ofa.export.from_state import export_checkpoint
from ofa.export.hf import ExportError, find_model_folder
from ofa.run_folder import RunFolderError

KINDS = {
    "finetune": (FinetuneConfig, "is a run that fine-tunes a model", "launch/finetune.py"),
    "cofi": (CofiConfig, "is a run that prunes a task model's structure", "launch/cofi.py"),
    "cofi_mlm": (CofiMlmConfig, "is a run that prunes a masked-LM model's structure", "launch/cofi.py"),
    "qat": (QatConfig, "is a run that trains a task model in 8 bits", "launch/qat.py"),
}


def run(folder, kind, name, steps=()):
    """A run's folder as its start and its checkpoints leave it."""
    record = {"config": load(kind, f"tiny/{name}.json").model_dump(mode="json"), "total_steps": 40}
    (folder / "config.json").write_text(json.dumps({**record, "data_fingerprint": "", "versions": {}}))
    for step in steps:
        (folder / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_a_run_that_does_not_pre_train_says_where_its_model_is(tmp_path, name):
    kind, what, script = KINDS[name]
    folder = run(tmp_path, kind, name, (4, 12))
    place = r"\(its newest checkpoint is of step 12 of 40\)"
    words = f"{what} and has not ended {place}: .* continue it with python {script}"
    with pytest.raises(ExportError, match=words):
        find_model_folder(folder)
    with pytest.raises(RunFolderError, match=words):
        export_checkpoint(folder, tmp_path / "out")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(RunFolderError, match=f"{what}, and has exported its model, {folder / 'model'}, at its end"):
        export_checkpoint(folder, tmp_path / "out")
    assert find_model_folder(folder) == folder / "model"


def test_a_run_that_pre_trains_is_exported_from_its_checkpoint(tmp_path):
    folder = run(tmp_path, RunConfig, "ofa_90")
    with pytest.raises(ExportError, match="has not exported its model yet: continue it, or launch/export.py it"):
        find_model_folder(folder)
    with pytest.raises(RunFolderError, match="has no checkpoint yet"):
        export_checkpoint(folder, tmp_path / "out")
