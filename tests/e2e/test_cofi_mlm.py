"""Structured pruning on masked words by the real command: a compact masked-LM model before any task, whatever the
interruptions, which stock Auto classes load and fine-tuning takes like any base."""

import json
import re
import shutil
from functools import partial

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import ofa.assemble
from ofa.data.shards import tokenizer_fingerprint, write_manifest
from ofa.export.masks_file import read_masks
from ofa.models.materialise import prunable_parameters
from tests import processes
from tests.commands import command, overrides, refused
from tests.corpora import write_corpus
from tests.e2e.test_resume import at_step, kill_when
from tests.finished_runs import finish, finished_once
from tests.run_files import metrics, model_bytes, validated
from tests.tiny_tasks import SIZE, write_project

BEGIN, RAMP_END, PRUNED, TOTAL = 4, 10, 30, 38
"""Steps at which the stages change."""

HEAD, DENSE = 4 * 32 * 16, 2 * (4 * 32 * 32 + 2 * 32 * 64)
"""Weights of a head, and of all Linears."""

MLM = {
    "data": {"path": "data", "sequence_length": SIZE.positions, "shuffle_window": 2},
    "model": {"init": "dense", "architecture": {"model_type": "bert"}},
    "teacher": {"init": "dense"},
    "objective": {"ce_weight": 0.5, "kd_weight": 0.5, "layer_weight": 0.5},
    "batch": {"global_size": 8, "micro_size": 4},
    "optimizer": {"lr": 1e-3},
    "schedule": {"total_steps": PRUNED, "warmup_steps": 2},
    "structure": {"sparsity": 0.6, "begin_steps": BEGIN, "ramp_steps": RAMP_END - BEGIN, "multiple": 4, "lr": 0.5},
    "finetune": {"steps": TOTAL - PRUNED},
    "evaluate": {"every": 4},
    "checkpoint": {"every": 4, "keep_last": 20},
    "engine": {"threads": 1},
    "log": {"every": 1},
}
"""Dropout stays at the architecture's 0.1, so that its randomness has to be resumed too."""

SPARSE = ("model.init=base", "lock=true", "structure.cost=nnz", "structure.sparsity=0.9")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with bases, a corpus of their words, tasks and configs."""
    folder = write_project(tmp_path_factory.mktemp("project"))
    for name, pairs in (("data", False), ("pairs", True)):
        write_corpus(folder / name, rows=120, length=SIZE.positions, vocab_size=SIZE.vocab, pairs=pairs)
        of_the_bases(folder / name, folder / "base")
    (folder / "mlm.json").write_text(json.dumps(MLM))
    return folder


def of_the_bases(corpus, base):
    """Give a corpus the tokenizer of a model folder, which knows the same ids and can read text."""
    shutil.rmtree(corpus / "tokenizer")
    AutoTokenizer.from_pretrained(base).save_pretrained(corpus / "tokenizer")
    manifest = json.loads((corpus / "manifest.json").read_text())
    added = ("format", "version", "fingerprint", "checksum")
    manifest = {key: value for key, value in manifest.items() if key not in added}
    manifest["tokenizer"]["fingerprint"] = tokenizer_fingerprint(corpus / "tokenizer")
    write_manifest(corpus, manifest)


@pytest.fixture(scope="module")
def pruned(project):
    """pruned(*overrides) -> the run folder of mlm.json; a run that is there is not made again."""
    return partial(finished_once("cofi.py", project), "mlm")


def scored(project, folder):
    """What evaluate.py says of a model on the corpus."""
    answer = command("evaluate.py", str(folder), "--data", "data", "--json", cwd=project)
    assert answer.status == 0, answer.err
    return json.loads(answer.out)


def test_the_small_model_is_what_the_run_says_and_scores_what_it_says(project, pruned):
    """COFI-36, 37, 9: counted in the tensors that Auto classes load; scored as the run has scored it."""
    folder = pruned()
    result, lines = json.loads((folder / "result.json").read_text()), validated(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder / "model")
    assert type(model).__name__ == "CompactBertForMaskedLM"
    gone = 1 - prunable_parameters(model) / DENSE
    assert 0.6 <= gone <= 0.6 + HEAD / DENSE
    assert result["stages"] == {"begin": BEGIN, "ramp_end": RAMP_END, "pruned": PRUNED, "total": TOTAL}
    assert [row["name"] for row in result["rows"]] == ["dense teacher", "floor: scope all zero", "compact model"]
    own = result["rows"][-1]
    assert own["structural_sparsity"] == result["structure"]["structural_sparsity"] == pytest.approx(gone, abs=1e-12)
    assert own["encoder_weights"] == prunable_parameters(model)
    assert lines[-1]["step"] == TOTAL and lines[-1]["validation_loss"] == pytest.approx(own["validation_loss"])
    assert scored(project, folder)["validation_loss"] == pytest.approx(own["validation_loss"], rel=1e-6)
    answer = command("verify.py", str(folder), cwd=project)
    assert answer.status == 0 and "from the middle of the run" not in answer.out, answer.out


def test_card_report_and_table_tell_of_the_structure(project, pruned):
    folder = pruned()
    gone = json.loads((folder / "result.json").read_text())["structure"]["structural_sparsity"]
    card, report = (folder / "model" / "README.md").read_text(), (folder / "report.html").read_text()
    assert f"pre-trained bert, {100 * gone:.1f} % cut away" in card and "no finished model" not in card
    assert "on masked words, before any task" in card and "for this task alone" not in card
    assert "CoFi of dense on masked words, until 60 % of its weights are gone, with the teacher dense" in report
    assert f"units were pruned, towards a target that had risen to its full height at step {RAMP_END};" in report
    assert "This run prunes units, not single weights" in report
    assert "heads and dimensions" in report or "heads and intermediate dimensions of each layer" in report
    answer = command("cofi.py", "--config", "mlm.json", "--run-dir", str(folder), cwd=project)
    assert "already finished" in answer.out and "structure gone" in answer.out and "compact model" in answer.out


def test_gates_close_towards_the_target_and_all_losses_are_in_the_lines(pruned):
    """COFI-12, 14: expected sparsity follows the ramp; what is scored on the way is a hard structure of its target.
    COFI-37: gates end with their stage."""
    under = [line for line in metrics(pruned()) if {"expected_sparsity", "lambda_1"} & line.keys()]
    assert [line["step"] for line in under] == list(range(BEGIN, PRUNED))
    assert under[0]["expected_sparsity"] < 0.01 < 0.5 < under[-1]["expected_sparsity"]
    for line in validated(pruned()):
        target = 0.6 * min(1.0, max(0, line["step"] - BEGIN) / (RAMP_END - BEGIN))
        assert target - 1e-9 <= line["structural_sparsity"] <= target + HEAD / DENSE
    trained = [line for line in metrics(pruned()) if "loss" in line]
    assert [line["step"] for line in trained] == list(range(TOTAL))
    for line in trained:
        whole = 0.5 * (line["masked_lm"] + line["masked_lm_kd"] + line["layer"])
        assert line["loss"] == pytest.approx(whole, rel=1e-5)
    assert trained[0]["layer"] >= 0.0 and {"match.1", "match.2"} <= trained[-1].keys()


def test_the_small_model_takes_over_with_the_scores_of_the_masked_one_and_the_teacher_stays(pruned, monkeypatch):
    """COFI-25: what stage three begins with is the model under its hard masks; its teacher is read once."""
    read = []
    monkeypatch.setattr(
        ofa.assemble, "load_teacher", lambda *args, load=ofa.assemble.load_teacher: (read.append(args), load(*args))[1]
    )
    folder = pruned("finetune.steps=0")
    (first,) = [line for line in validated(folder) if line["step"] >= PRUNED]
    assert first["step"] == PRUNED and not any(line["step"] >= PRUNED for line in metrics(folder) if "loss" in line)
    said = re.search(r"under its last masks: validation loss ([\d.]+)", (folder / "log.txt").read_text())
    assert said and float(said[1]) == pytest.approx(first["validation_loss"], abs=6e-5)
    assert len(read) == 1


@pytest.mark.parametrize(
    "step",
    [pytest.param(BEGIN, marks=pytest.mark.slow), BEGIN + 4, pytest.param(PRUNED, marks=pytest.mark.slow), PRUNED + 2],
    ids=["before masks", "under masks", "at the change", "small"],
)
def test_the_checkpoint_of_any_stage_leads_to_the_same_bytes(project, pruned, step):
    """COFI-38: gates, multipliers, moments, W and the structure are continued bit for bit."""
    whole, folder = pruned(), project / f"again-{step}"
    shutil.copytree(whole, folder)
    for later in folder.glob("checkpoints/step-*"):
        if int(later.name.removeprefix("step-")) > step:
            shutil.rmtree(later)
    (folder / "checkpoints" / "latest").write_text(f"step-{step:08d}\n")
    shutil.rmtree(folder / "model")
    gone = ["result.json", "report.html"] + (["structure.json"] if step <= PRUNED else [])
    for name in gone:
        (folder / name).unlink()
    finish("cofi.py", project, "mlm", folder.name)
    assert f"step-{step:08d}" in (folder / "log.txt").read_text()
    assert metrics(folder) == metrics(whole)
    assert model_bytes(folder) == model_bytes(whole)
    assert (folder / "structure.json").read_bytes() == (whole / "structure.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("step", [BEGIN - 2, BEGIN + 3, PRUNED, PRUNED + 5])
def test_killed_in_any_stage_it_ends_with_the_same_bytes(project, pruned, step):
    """COFI-38"""
    whole, folder = pruned(), project / f"killed-{step}"
    arguments = ("--config", "mlm.json", "--run-dir", str(folder))
    process = processes.start_script("cofi.py", *arguments, cwd=project, output=project / "killed.out")
    kill_when(process, at_step(folder, step))
    finish("cofi.py", project, "mlm", folder.name)
    assert metrics(folder) == metrics(whole)
    assert model_bytes(folder) == model_bytes(whole)


@pytest.mark.slow
def test_compiled_layers_learn_what_eager_ones_do(project, pruned):
    """`engine.compile`, without dropout, which compiled code draws otherwise: student, teacher and small model."""
    eager, compiled = (metrics(pruned("model.dropout=0", f"engine.compile={how}")) for how in ("false", "true"))
    log = (pruned("model.dropout=0", "engine.compile=true") / "log.txt").read_text()
    assert log.count("encoder layers are compiled") == 3
    assert [line["step"] for line in compiled] == [line["step"] for line in eager]
    for key in ("loss", "layer", "expected_sparsity", "lambda_1", "structural_sparsity", "validation_loss"):
        theirs = [line[key] for line in eager if key in line]
        assert [line[key] for line in compiled if key in line] == pytest.approx(theirs, rel=2e-3, abs=1e-5) and theirs


def test_a_sparse_base_keeps_its_zeros(project, pruned):
    """`lock`: both sparsities at once, counted in what is left and not zero."""
    folder = pruned(*SPARSE)
    result, recipe = (json.loads((folder / name).read_text()) for name in ("result.json", "model/recipe.json"))
    model = folder / "model"
    weights, masks = load_file(model / "model.safetensors"), read_masks(model / "masks.safetensors")
    assert masks and all(bool((weights[name][~keep] == 0).all()) for name, keep in masks.items())
    assert recipe["lock"]["patterns"].keys() == masks.keys()
    left = sum(int(weights[name].count_nonzero()) for name in masks)
    assert 1 - left / DENSE == pytest.approx(result["structure"]["cost_sparsity"], abs=1e-9)
    assert result["structure"]["structural_sparsity"] < result["structure"]["cost_sparsity"], "zeros are no structure"
    assert [row["name"] for row in result["rows"]][:2] == ["dense teacher", "dense start"]
    answer = command("verify.py", str(folder), cwd=project)
    assert answer.status == 0, answer.out


@pytest.mark.parametrize("lock", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_small_model_goes_on_into_fine_tuning(project, pruned, lock):
    """As any base: its structure stays, heads of the task are drawn, and with a lock its zeros stay too."""
    base = pruned(*SPARSE) if lock else pruned()
    run_dir = f"tuned-{lock}"
    changes = overrides(f"model.init={base / 'model'}", f"lock={json.dumps(lock)}")
    answer = command("finetune.py", "--config", "pairs.json", "--run-dir", run_dir, *changes, cwd=project)
    assert answer.status == 0, answer.err
    tuned = AutoModelForSequenceClassification.from_pretrained(project / run_dir / "model")
    assert type(tuned).__name__ == "CompactBertForSequenceClassification"
    before = AutoModelForMaskedLM.from_pretrained(base / "model")
    assert tuned.config.structure == before.config.structure
    assert prunable_parameters(tuned) == prunable_parameters(before)
    answer = command("evaluate.py", run_dir, "--json", cwd=project)
    row = json.loads((project / run_dir / "result.json").read_text())["rows"][-1]
    assert json.loads(answer.out)["metrics"]["validation_loss"] == pytest.approx(row["validation_loss"], rel=1e-6)
    if lock:
        masks = read_masks(base / "model" / "masks.safetensors")
        state = tuned.state_dict()
        assert masks and all(bool((state[name][~keep] == 0).all()) for name, keep in masks.items())


WAYS = {
    "sentence pairs": ("data.path=pairs", "model.task=mlm_nsp"),
    "by magnitude": ("structure.method=magnitude",),
    "multiply-adds, norms kept": ("structure.cost=macs", "structure.length=16", "structure.dead_sublayer=keep_norm"),
    "without a teacher": ("teacher=null", "objective.ce_weight=1", "objective.kd_weight=0", "objective.layer_weight=0"),
    "answers only, at all tokens": ("objective.layer_weight=0", "objective.kd_positions=all"),
    "layers at random, free": ("objective.teacher_layers=random", "objective.matching=free"),
    "bf16": ("engine.precision=bf16",),
    "no stage three": ("finetune.steps=0",),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_way_leads_to_a_small_model_that_scores_what_the_run_says(project, pruned, way):
    folder = pruned(*WAYS[way])
    result = json.loads((folder / "result.json").read_text())
    assert 0.6 <= result["structure"]["cost_sparsity"] < 1
    found = scored(project, folder) if way != "sentence pairs" else None
    if found is not None:
        assert found["validation_loss"] == pytest.approx(result["rows"][-1]["validation_loss"], rel=1e-6)
    else:
        config = json.loads((folder / "model" / "config.json").read_text())
        assert config["architectures"] == ["CompactBertForPreTraining"]
        assert "validation_nsp_loss" in result["rows"][-1]


@pytest.mark.slow
def test_two_ranks_end_with_one_structure_and_one_model(project):
    """COFI-17, 24 at ZeRO 3."""
    arguments = ("--config", "mlm.json", "--run-dir", "two", "--set", "engine.zero_stage=3")
    processes.script("cofi.py", *arguments, cwd=project, ranks=2)
    result = json.loads((project / "two" / "result.json").read_text())
    assert 0.6 <= result["structure"]["structural_sparsity"] <= 0.6 + HEAD / DENSE
    assert scored(project, "two")["validation_loss"] == pytest.approx(result["rows"][-1]["validation_loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["structure.ramp_steps=26"], ["begin_steps and ramp_steps come to 30 steps", "raise schedule.total_steps"]),
        (["structure.begin_epochs=1"], ["unknown key structure.begin_epochs", "begin_steps"]),
        (["structure.hidden=true"], ["structure.hidden", "word embedding", "set it to false"]),
        (["lock=true"], ["there is no zero to keep", "Set lock to false"]),
        (["data.sequence_length=64"], ["sequence_length", "48"]),
        (["structure.intermediate=false", "structure.layers=false"], ["out of reach", "prune more families"]),
    ],
    ids=["ramp", "epochs", "hidden", "no zeros", "length", "heads alone"],
)
def test_what_cannot_be_is_refused(project, request, changes, words):
    arguments = ["--config", "mlm.json", "--run-dir", f"refused/{request.node.callspec.id.replace(' ', '-')}"]
    refused(project, *arguments, *overrides(*changes), script_name="cofi.py", words=words)


def test_values_that_are_named_for_a_short_ramp_are_not_refused(project):
    """Steps stand as they are: 1,026 after 4 end before 1,031, which 1,100 would not."""
    values = ["structure.lr=0.0117", "schedule.total_steps=1031", "finetune.steps=0"]
    answer = command(
        "cofi.py", "--config", "mlm.json", "--run-dir", "slow", *overrides(*values), "--time-limit", "1", cwd=project
    )
    assert "set structure.ramp_steps=1026; or structure.lr=" in answer.err, answer.err


def test_it_is_sent_to_its_own_script_and_a_compact_model_is_not_cut_again(project, pruned):
    refused(project, "--config", "mlm.json", words=["prunes a masked-LM model's structure", "launch/cofi.py"])
    again = ("--set", f"model.init={pruned() / 'model'}", "--set", "model.architecture={}")
    words = ["is a compact model already", "launch/finetune.py"]
    refused(project, "--config", "mlm.json", "--run-dir", "twice", *again, script_name="cofi.py", words=words)
    refused(project, "--config", "mlm.json", "--with-teacher", script_name="cofi.py", words=["launch/pretrain.py"])
