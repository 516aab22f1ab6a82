"""The whole job on two real ranks, with other architectures, heads, precisions and launchers than the default's."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining

from ofa.export.masks_file import read_masks
from tests import processes
from tests.corpora import write_corpus
from tests.e2e.conftest import TINY

pytestmark = pytest.mark.slow

PAIRS = {
    **TINY,
    "model": {**TINY["model"], "task": "mlm_nsp"},
    "engine": {"threads": 1, "precision": "bf16"},
    "schedule": {"total_steps": 12, "warmup_steps": 1},
}

DISTIL = {
    **TINY,
    "model": {
        "architecture": {
            "model_type": "distilbert",
            "vocab_size": 200,
            "dim": 32,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 64,
            "max_position_embeddings": 64,
        }
    },
    "schedule": {"total_steps": 12, "warmup_steps": 1},
}


def sparse(name, **sections):
    """A short gradual recipe over a dense run of the same project."""
    model = f"runs/{name}/model"
    pruning = {"sparsity": 0.9, "ramp_end": 6, "end": 9, "frequency": 3}
    return {
        "base": f"{name}.json",
        "model": {"init": model},
        "teacher": {"init": model},
        "pruning": pruning,
        **sections,
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data with and without pairs, and the configs."""
    folder = tmp_path_factory.mktemp("ranks")
    write_corpus(folder / "data", rows=120, pairs=True)
    configs = {
        "pairs": PAIRS,
        "pairs_90": sparse("pairs"),
        "distil": DISTIL,
        "distil_90": sparse(
            "distil",
            engine={"zero_stage": 0},
            objective={"kd_positions": "all", "hidden_weight": 0.1},
            pruning={"sparsity": 0.9, "ramp_end": 6, "end": 9, "frequency": 3, "regrow": False},
        ),
    }
    for name, values in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def pairs(place):
    """Teacher and student of sentence pairs, on two ranks each: the folder they lie in."""
    for name in ("pairs", "pairs_90"):
        processes.script("pretrain.py", "--config", f"{name}.json", cwd=place, ranks=2)
    return place


@pytest.fixture(scope="module")
def distil(place):
    """Teacher in one process, student on two ranks of DeepSpeed's launcher: the folder they lie in."""
    launcher = Path(sys.executable).with_name("deepspeed")
    processes.script("pretrain.py", "--config", "distil.json", cwd=place)
    script = str(processes.CHECKOUT / "launch" / "pretrain.py")
    command = [str(launcher), "--num_gpus", "2", script, "--config", "distil_90.json"]
    path = f"{launcher.parent}:{processes.environment()['PATH']}"
    processes.finished(command, cwd=place, PATH=path, DS_ACCELERATOR="cpu")
    return place


@pytest.fixture(params=["pairs", "distil"])
def student(request):
    """Its folder's place, and its name."""
    return request.getfixturevalue(request.param), f"{request.param}_90"


def check_zeros(folder, kind, scoped):
    """Exact counts in the exported file, through stock transformers."""
    model = kind.from_pretrained(folder / "model")
    masks = read_masks(folder / "model" / "masks.safetensors")
    assert len(masks) == scoped
    for name, keep in masks.items():
        weight = model.get_parameter(name)
        assert torch.equal(weight != 0, keep)
        assert int((~keep).sum()) == int(0.9 * keep.numel())


def last_train_line(folder):
    """The last line of the loop."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "lr" in line][-1]


def test_sentence_pairs_in_bf16_under_torchrun(pairs):
    """OFA-8, OFA-22: 13 scoped weights with the pooler, ZeRO 1, two ranks, accumulation."""
    folder = pairs / "runs" / "pairs_90"
    check_zeros(folder, AutoModelForPreTraining, 13)
    assert {"masked_lm", "masked_lm_kd", "nsp", "nsp_kd", "loss"} <= last_train_line(folder).keys()
    assert len(list((folder / "checkpoints" / "step-00000012").glob("*zero_pp_rank_*"))) == 2
    done = processes.script("verify.py", folder, "--expect-sparsity", "0.9", cwd=pairs)
    assert "is what it says it is" in done.stdout


def test_a_checkpoint_exports_the_same_bytes_as_the_run(student):
    """From two bf16 ranks' fp32 masters, and from ZeRO 0's live weights."""
    place, name = student
    processes.script("export.py", f"runs/{name}", "--output", f"exported/{name}", cwd=place)
    ours, theirs = place / "exported" / name, place / "runs" / name / "model"
    assert {p.name: p.read_bytes() for p in ours.iterdir()} == {p.name: p.read_bytes() for p in theirs.iterdir()}


def test_a_checkpoint_before_the_last_masks_is_not_exported_as_the_result(distil):
    """With the last refresh at the run's very end the final checkpoint holds the masks before it."""
    end = {"sparsity": 0.9, "ramp_end": 12, "end": 12, "frequency": 3}
    (distil / "at_end.json").write_text(json.dumps(sparse("distil", pruning=end)))
    processes.script("pretrain.py", "--config", "at_end.json", cwd=distil)
    check_zeros(distil / "runs" / "at_end", AutoModelForMaskedLM, 12)
    done = processes.script("export.py", "runs/at_end", "--output", "exported/at_end", cwd=distil, check=False)
    assert done.returncode == 1 and "before the last masks were chosen" in done.stderr
    assert not (distil / "exported" / "at_end").exists()


def test_any_folder_is_evaluated_on_any_shards_with_the_score_of_its_run(student):
    place, name = student
    done = processes.script("evaluate.py", f"runs/{name}", "--data", "data", "--json", cwd=place)
    row = json.loads(done.stdout)
    theirs = json.loads((place / "runs" / name / "result.json").read_text())["rows"][-1]
    for key in ("validation_loss", "masked_accuracy", "scope_sparsity"):
        assert row[key] == pytest.approx(theirs[key], rel=1e-5), key
    assert ("validation_nsp_loss" in row) == (name == "pairs_90")


def test_a_killed_export_is_made_up_for_by_another_number_of_ranks(pairs):
    """Masters of two bf16 ranks, converted and exported by one: the same model."""
    done = processes.script("pretrain.py", "--config", "pairs_90.json", cwd=pairs, check=False)
    assert done.returncode == 0, "a finished run only prints its table"
    run = pairs / "runs" / "pairs_90"
    before = {path.name: path.read_bytes() for path in (run / "model").iterdir()}
    for name in ("result.json", "model/config.json"):
        (run / name).unlink()
    done = processes.script("pretrain.py", "--config", "pairs_90.json", cwd=pairs)
    assert "the checkpoint is of 2 ranks at ZeRO 1, this run has 1 at ZeRO 1" in done.stderr
    assert {path.name: path.read_bytes() for path in (run / "model").iterdir()} == before


def test_distilbert_at_every_position_under_the_deepspeed_launcher(distil):
    """OFA-8, OFA-22: ZeRO 0, hard masks, hidden states distilled too; the launcher's --local_rank is tolerated."""
    folder = distil / "runs" / "distil_90"
    check_zeros(folder, AutoModelForMaskedLM, 12)
    line = last_train_line(folder)
    assert {"masked_lm", "masked_lm_kd", "hidden"} <= line.keys()
    assert line["revived"] == 0 and line["grad_norm"] > 0
