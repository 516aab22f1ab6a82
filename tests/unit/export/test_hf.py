"""The exported folder: stock classes load it, its bytes are always the same, and no half of it is ever in its place."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForPreTraining,
)

from ofa import files
from ofa.config import CHECKOUT
from ofa.export.count import same_bits
from ofa.export.from_state import export_checkpoint
from ofa.export.hf import OF_A_COMMAND, ExportError, check_replaceable, export_model, find_model_folder
from ofa.export.masks_file import read_masks
from ofa.export.recipe_file import parameters_fingerprint, read_recipe
from ofa.export.verify import verify_folder
from ofa.models.adapters import encoder_names, scope
from ofa.models.sparsity import base_parameters, sparsities_of
from ofa.run_files import RunFolderError

STOCK = [
    AutoModelForPreTraining,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForQuestionAnswering,
]
FILES = {
    "README.md",
    "config.json",
    "masks.safetensors",
    "model.safetensors",
    "recipe.json",
    "tokenizer_config.json",
    "vocab.txt",
}


def contents(folder):
    """Bytes of each file by name."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.mark.parametrize("auto", STOCK)
def test_stock_classes_load_the_folder_with_every_bit_of_the_encoder(exported, auto):
    saved = load_file(exported / "model.safetensors")
    model, info = auto.from_pretrained(exported, output_loading_info=True)
    loaded = dict(model.named_parameters())
    body = [name for name in saved if name.startswith("bert.") and name in loaded]
    assert len(body) >= 37  # all but the pooler, which two of the classes do not have
    assert all(same_bits(saved[name], loaded[name]) for name in body)
    assert all(name.startswith(("cls.", "bert.pooler.")) for name in info["unexpected_keys"])


def test_the_class_that_was_saved_finds_neither_missing_nor_unexpected_keys(exported):
    _, info = AutoModelForPreTraining.from_pretrained(exported, output_loading_info=True)
    assert not info["unexpected_keys"] and not info["missing_keys"]


def test_saved_zeros_are_positive_and_exactly_where_masks_drop(exported):
    """OFA-21, the saved file: every dropped weight is +0.0, bit for bit."""
    saved, keep = load_file(exported / "model.safetensors"), read_masks(exported / "masks.safetensors")
    assert len(keep) == 13
    for name, mask in keep.items():
        bits = saved[name].numpy().view(np.int32)
        np.testing.assert_array_equal(bits != 0, mask.numpy())
    assert not any(bool((torch.signbit(weight) & (weight == 0)).any()) for weight in saved.values())


def test_masks_cover_the_scope_and_nothing_else(exported):
    """OFA-9: embeddings, biases, LayerNorm and heads have no masked entry."""
    names = set(read_masks(exported / "masks.safetensors"))
    model = AutoModelForPreTraining.from_pretrained(exported)
    linears = {f"{n}.weight" for n, m in model.bert.named_modules(prefix="bert") if isinstance(m, torch.nn.Linear)}
    assert names == linears
    assert not [name for name in names if re.search(r"embeddings|bias|LayerNorm|cls", name)]


def test_bert_base_at_90_percent_is_70_3_percent_of_the_model():
    """OFA-9: encoder and whole-model sparsity are both reported, and differ."""
    with torch.device("meta"):
        model = BertForPreTraining(BertConfig())
    alive = {name: torch.ones(weight.numel(), dtype=torch.bool) for name, weight in base_parameters(model).items()}
    for name, weight in scope(model).items():
        alive[name][: int(0.9 * weight.numel())] = False
    found = sparsities_of(alive, scope(model), encoder_names(model))
    assert round(found["encoder_sparsity"], 4) == round(found["scope_sparsity"], 4) == 0.9
    assert round(found["model_sparsity"], 3) == 0.703


def test_recipe_holds_target_measure_parents_and_both_sparsities(exported):
    recipe = read_recipe(exported)
    assert recipe["target_sparsity"] == 0.9 and recipe["pattern"] == "unstructured"
    assert recipe["scope"]["weights"] == 17408 and len(recipe["scope"]["tensors"]) == 13
    assert recipe["sparsity"] == verify_folder(exported).sparsities
    assert recipe["sparsity"].keys() == {"encoder_sparsity", "scope_sparsity", "model_sparsity"}
    assert recipe["parents"] == [{"role": "init", "name": "teacher/model", "fingerprint": "ab" * 32}]
    assert recipe["config"]["pruning"]["sparsity"] == 0.9 and recipe["data"]["fingerprint"] == "cd" * 32


def test_exporting_twice_gives_the_same_bytes(exported, tmp_path, sparse_model, tokenizer_folder, run_recipe):
    model, keep = sparse_model()
    export_model(tmp_path / "elsewhere" / "again", model, tokenizer_folder, keep, run_recipe)
    assert contents(tmp_path / "elsewhere" / "again") == contents(exported)
    assert contents(exported).keys() == FILES


def test_no_file_names_this_machine(exported, tokenizer_folder):
    for name, data in contents(exported).items():
        for path in (str(exported.parent), str(tokenizer_folder), str(CHECKOUT), "/somewhere"):
            assert path.encode() not in data, name


def test_tied_weights_are_saved_once(exported):
    saved = load_file(exported / "model.safetensors")
    assert "bert.embeddings.word_embeddings.weight" in saved and "cls.predictions.decoder.weight" not in saved
    model = AutoModelForPreTraining.from_pretrained(exported)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_everyone_who_may_read_the_config_may_read_the_weights(exported):
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1


def test_the_tokenizer_loads_from_the_folder(exported):
    assert AutoTokenizer.from_pretrained(exported).convert_tokens_to_ids("[MASK]") == 4


def test_a_dense_model_has_no_masks(tmp_path, sparse_model, tokenizer_folder, run_recipe):
    export_model(tmp_path / "model", sparse_model(sparsity=0.0)[0], tokenizer_folder, {}, run_recipe)
    assert contents(tmp_path / "model").keys() == FILES - {"masks.safetensors"}
    assert read_recipe(tmp_path / "model")["pattern"] == "dense"


def test_the_code_of_the_model_card_runs_and_keeps_the_zeros(exported):
    card = (exported / "README.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", card, flags=re.S))
    assert code.count("path/to/this/folder") == 1
    names = {}
    exec(compile(code.replace("path/to/this/folder", str(exported)), "README.md", "exec"), names)
    with torch.no_grad():
        for weight in names["model"].parameters():
            weight.sub_(1.0)
    names["keep_zeros"]()
    keep = read_masks(exported / "masks.safetensors")
    assert len(names["dropped"]) == len([name for name in keep if name in names["parameters"]]) >= 12
    for name in names["dropped"]:
        weight = names["parameters"][name]
        assert torch.equal(weight != 0, keep[name] & (weight != 0)) and not torch.signbit(weight[~keep[name]]).any()


def test_weights_that_are_not_finite_are_refused_and_the_old_folder_stays(exported, sparse_model, tokenizer_folder):
    before = contents(exported)
    model, keep = sparse_model()
    model.bert.embeddings.word_embeddings.weight.data[3, 3] = float("nan")
    with pytest.raises(ExportError, match="word_embeddings.*not finite"):
        export_model(exported, model, tokenizer_folder, keep, {})
    assert contents(exported) == before


def test_a_mask_outside_the_scope_is_refused(tmp_path, sparse_model, tokenizer_folder):
    model, keep = sparse_model()
    keep["bert.embeddings.word_embeddings.weight"] = torch.ones(64, 32, dtype=torch.bool)
    with pytest.raises(ExportError, match="outside the scope: bert.embeddings.word_embeddings"):
        export_model(tmp_path / "model", model, tokenizer_folder, keep, {})


def test_a_weight_that_its_mask_drops_must_be_zero(tmp_path, sparse_model, tokenizer_folder):
    model, keep = sparse_model()
    name = "bert.pooler.dense.weight"
    scope(model)[name].data[~keep[name]] = 0.5
    with pytest.raises(AssertionError, match="pooler"):
        export_model(tmp_path / "model", model, tokenizer_folder, keep, {})


def test_an_export_that_fails_leaves_nothing_behind(tmp_path, sparse_model):
    model, keep = sparse_model()
    with pytest.raises(ExportError, match="no tokenizer"):
        export_model(tmp_path / "out" / "model", model, tmp_path, keep, {})
    assert list(tmp_path.iterdir()) == []


KILLED_AT_EACH_STEP = """
import os, shutil, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = [{checkout!r}, {tests!r}]
from conftest import make_recipe, make_sparse_model
from ofa.export.hf import export_model

out, tokenizer = Path(sys.argv[1]), Path(sys.argv[2])
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.copyfile", "shutil.rmtree")


def contents():
    folder = out / "model"
    return {{p.name: p.read_bytes() for p in folder.iterdir()}} if folder.exists() else None


def attempt(seed, last):
    left = [last]

    def hook(event, arguments):
        if event in EVENTS and str(arguments[0]).startswith(str(out)):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        sys.addaudithook(hook)
        export_model(out / "model", models[seed][0], tokenizer, models[seed][1], recipe)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def finished(seed):
    assert attempt(seed, 10**9)
    return contents()


def stand(files):
    shutil.rmtree(out)
    out.mkdir()
    for name, data in (files or {{}}).items():
        (out / "model").mkdir(exist_ok=True)
        (out / "model" / name).write_bytes(data)


recipe = make_recipe()
models = [make_sparse_model(0), make_sparse_model(1)]
complete = {{None: None, 0: finished(0), 1: finished(1)}}
assert complete[0] != complete[1]
for old, new in ((None, 0), (0, 1)):
    def survives(step):
        stand(complete[old])
        ended = attempt(new, step)
        assert contents() in (complete[old], complete[new]), (old, step)
        assert not ended or contents() == complete[new] and [p.name for p in out.iterdir()] == ["model"]
        return ended

    steps = 0
    while not survives(steps):
        steps += 5
    for step in range(steps - 18, steps):  # around the renames: every one
        survives(step)
    print(steps, flush=True)
"""


def test_a_kill_at_any_step_leaves_the_old_folder_or_the_new_one(tmp_path, tokenizer_folder):
    script = KILLED_AT_EACH_STEP.format(checkout=str(CHECKOUT), tests=str(Path(__file__).resolve().parents[1]))
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", script, str(tmp_path / "out"), str(tokenizer_folder)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(int(steps) > 20 for steps in done.stdout.split())


def test_replacing_works_where_names_cannot_be_exchanged(
    monkeypatch, exported, sparse_model, tokenizer_folder, run_recipe
):
    monkeypatch.setattr(files, "exchange", lambda one, other: False)
    before = contents(exported)
    model, keep = sparse_model(seed=1)
    export_model(exported, model, tokenizer_folder, keep, run_recipe)
    assert contents(exported) != before
    assert [path.name for path in exported.parent.iterdir()] == ["model"]


def test_a_fingerprint_follows_the_weights_and_not_their_file(exported, sparse_model):
    model, _ = sparse_model()
    first = parameters_fingerprint(model.named_parameters())
    exported_model = AutoModelForPreTraining.from_pretrained(exported)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.0)
    assert parameters_fingerprint(exported_model.named_parameters()) == parameters_fingerprint(model.named_parameters())
    assert parameters_fingerprint(model.named_parameters()) != first  # the -0.0 are gone


def test_a_run_folder_means_its_model(exported):
    (exported.parent / "config.json").write_text(json.dumps({"config": {}}))
    assert find_model_folder(exported.parent) == find_model_folder(exported) == exported


def test_a_run_that_has_not_exported_is_told_so(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": {}}))
    with pytest.raises(ExportError, match="has not exported its model yet"):
        find_model_folder(tmp_path)


def test_a_file_is_called_a_file(exported):
    with pytest.raises(ExportError, match=r"vocab\.txt is a file; expected a run folder or a model folder"):
        find_model_folder(exported / "vocab.txt")


def test_what_is_no_export_is_kept_and_the_caller_says_what_to_do(tmp_path, sparse_model, tokenizer_folder):
    (tmp_path / "model").mkdir()
    check_replaceable(tmp_path / "model", "do nothing")
    (tmp_path / "model" / "mine").write_text("mine")
    with pytest.raises(ExportError, match=r"no exported model \(it has no recipe.json\): do this$"):
        check_replaceable(tmp_path / "model", "do this")
    model, keep = sparse_model()
    with pytest.raises(ExportError, match="move it away, or choose another --run-dir"):
        export_model(tmp_path / "model", model, tokenizer_folder, keep, {})
    with pytest.raises(ExportError, match="choose another --output, or move it away"):
        export_model(tmp_path / "model", model, tokenizer_folder, keep, {}, OF_A_COMMAND)
    assert (tmp_path / "model" / "mine").read_text() == "mine"


def test_an_earlier_export_may_be_replaced(exported):
    check_replaceable(exported, "do nothing")


def test_exporting_a_model_folder_names_its_run(exported, monkeypatch):
    run = exported.parent
    with pytest.raises(RunFolderError, match="is a model folder; expected the folder of the run that made it$"):
        export_checkpoint(exported, run / "out")
    (run / "config.json").write_text(json.dumps({"config": {}}))
    with pytest.raises(RunFolderError, match=f"is the exported model of a run; expected that run's folder, {run}$"):
        export_checkpoint(exported, run / "out")
    monkeypatch.chdir(run)
    with pytest.raises(RunFolderError, match=f"^model is the exported model of a run; .*, {run}$"):
        export_checkpoint(Path("model"), run / "out")


def test_exporting_a_file_or_nothing_says_which(exported):
    with pytest.raises(RunFolderError, match=r"vocab\.txt is a file; expected a run folder$"):
        export_checkpoint(exported / "vocab.txt", exported)
    with pytest.raises(ExportError, match="; make it with: python launch/cofi.py --config tiny/cofi.json$"):
        find_model_folder("runs/tiny/cofi")
    with pytest.raises(RunFolderError, match="nowhere: no such folder; expected a run folder$"):
        export_checkpoint(Path("nowhere"), exported)
