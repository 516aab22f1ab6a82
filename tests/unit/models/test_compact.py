"""Compact folders: saved, loaded, continued, with this package and without it."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import ofa.models.compact as compact_module
from ofa.data.tasks import TASKS
from ofa.export.verify import verify_folder
from ofa.models.adapters import ADAPTERS, adapter_for, scope
from ofa.models.blocks import sizes_of
from ofa.models.build import read_config
from ofa.models.compact import StructureError, compact_model, cut_down
from ofa.models.materialise import materialise
from ofa.models.place import ModelError
from ofa.models.task_models import build_task_model, head_of, load_task_model, load_task_teacher
from ofa.sections.finetune import TaskModelConfig, TaskTeacherConfig
from tests.masked_oracle import random_masks
from tests.task_parts import save_model, small_model, tokenizer

EVERY_TYPE = [row.model_type for row in ADAPTERS]
MNLI = TASKS["mnli"]
WITHOUT = """
import sys, torch
from transformers import AutoModelForSequenceClassification
for folder in sys.argv[1:]:
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    model.save_pretrained(folder + "_again")
    with torch.no_grad():
        torch.save(model(torch.arange(5, 15)[None]).logits, folder + ".pt")
assert not any(name.startswith("ofa") for name in sys.modules)
"""


def compact_of(model_type="bert", head="classification", *, hidden=True, seed=1, **values):
    model = small_model(model_type, head, **values)
    return materialise(model, random_masks(sizes_of(model), seed=seed, hidden=hidden))


@torch.no_grad()
def logits(model):
    return model.eval()(torch.arange(5, 15)[None]).logits


def same(found, wanted):
    """Products of odd widths depend, in their last bit, on where in memory a tensor begins."""
    return torch.allclose(logits(found), logits(wanted), atol=1e-6)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_a_saved_model_comes_back_and_is_saved_again_to_the_same_bytes(tmp_path, model_type):
    """COFI-28: weights and every file bit for bit, without code from the folder; safetensors only."""
    model = compact_of(model_type)
    model.save_pretrained(tmp_path / "one")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "one")
    assert type(loaded) is type(model) and same(loaded, model)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    loaded.save_pretrained(tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert files(tmp_path / "one").keys() == {"config.json", "model.safetensors", "compact.py"}


def test_a_folder_works_without_this_package(tmp_path):
    """COFI-28: another process, its code from the folder, every architecture."""
    models = {model_type: compact_of(model_type) for model_type in EVERY_TYPE}
    for model_type, model in models.items():
        model.save_pretrained(tmp_path / model_type)
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    folders = [str(tmp_path / model_type) for model_type in models]
    subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT, *folders],
        check=True,
        cwd=tmp_path,
        env={**clean, "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
    )
    for model_type, model in models.items():
        assert torch.allclose(torch.load(tmp_path / f"{model_type}.pt"), logits(model), atol=1e-6)
        again = tmp_path / f"{model_type}_again"
        assert (again / "config.json").read_bytes() == (tmp_path / model_type / "config.json").read_bytes()


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_the_encoder_alone_is_loaded_too(tmp_path, model_type):
    model = compact_of(model_type)
    model.save_pretrained(tmp_path)
    encoder, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert all("pooler" in name for name in report["missing_keys"])  # of which some task classes have none
    tokens = torch.arange(5, 15)[None]
    found, wanted = encoder(tokens), getattr(model, adapter_for(model_type).base)(tokens)
    assert torch.allclose(found.last_hidden_state, wanted.last_hidden_state, atol=1e-6)


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_attention_can_be_changed_as_in_stock_models(model_type):
    """COFI-20: the implementations agree, also where heads are missing."""
    model = compact_of(model_type)
    with_sdpa = logits(model)
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    assert torch.allclose(logits(model), with_sdpa, atol=1e-5) and not torch.equal(logits(model), 0 * with_sdpa)


@pytest.mark.slow
def test_the_file_that_is_copied_needs_torch_and_transformers_alone():
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); assert not any(m.startswith('ofa') for m in sys.modules)"
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-P", "-c", code, compact_module.__file__], check=True, cwd="/", env=clean)


def test_a_structure_that_does_not_fit_is_refused():
    model = compact_of("bert")
    with pytest.raises(StructureError, match="needs a structure"):
        compact_model(type(small_model("bert")))(small_model("bert").config)
    with pytest.raises(StructureError, match="the structure has 3 layers, its config 2"):
        cut_down(small_model("bert"), {**model.config.structure, "heads": [1, 1, 1]})
    with pytest.raises(StructureError, match="hidden dimensions of a BertForMaskedLM cannot be cut, only of ForSeq"):
        cut_down(small_model("bert", "mlm"), model.config.structure)


# ---- tasks and exports --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_fine_tuning_starts_from_a_compact_folder_and_learns_from_one(tmp_path, model_type):
    """COFI-37: as init, as a finished model, as a teacher; every weight has a gradient."""
    model = compact_of(model_type, labels=MNLI.labels)
    init = str(save_model(tmp_path, model))
    built = build_task_model(TaskModelConfig(init=init), MNLI, MNLI.labels, seed=1)
    assert not built.drawn and same(built.model, model)
    assert head_of(read_config(init)) == type(model).__name__
    assert same(load_task_model(init, "classification"), model)
    teacher, order = load_task_teacher(TaskTeacherConfig(init=init), MNLI, MNLI.labels, tokenizer(), "sdpa")
    assert order is None and same(teacher, model)
    built.model(torch.arange(5, 15)[None], labels=torch.tensor([1])).loss.backward()
    assert all(weight.grad is not None for weight in scope(built.model).values())


def test_a_compact_folder_takes_another_head_where_that_is_asked_for(tmp_path):
    init = str(save_model(tmp_path, compact_of("bert", labels=MNLI.labels)))
    with pytest.raises(ModelError, match="is a CompactBertForSequenceClassification, and squad needs a CompactBertFor"):
        build_task_model(TaskModelConfig(init=init), TASKS["squad"], (), seed=1)
    built = build_task_model(TaskModelConfig(init=init, new_head=True), TASKS["squad"], (), seed=1)
    assert built.model.qa_outputs.in_features == built.model.config.structure["hidden"]


def test_a_tokenizer_without_a_class_of_its_own_is_found(tmp_path):
    """transformers looks it up by the model type, and does not know compact ones."""
    save_model(tmp_path, compact_of("bert"))
    (tmp_path / "tokenizer_config.json").unlink()
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer().get_vocab()


@pytest.mark.parametrize("task", ["rte", "squad"])
def test_an_exported_compact_model_is_verified_like_any_other(exported_task, task):
    folder = exported_task(task, "compact")
    found = verify_folder(folder)
    assert not found.problems and found.has_masks and "CompactBertFor" in found.notes[-1]
    recipe = json.loads((folder / "recipe.json").read_text())
    assert "compact.py" in recipe["files"] and recipe["scope"]["model_type"] == "compact_bert"
    config = json.loads((folder / "config.json").read_text())
    config["structure"]["intermediate"][0] += 1
    (folder / "config.json").write_text(json.dumps(config))
    assert {"changed-file", "reload"} <= {problem.kind for problem in verify_folder(folder).problems}
