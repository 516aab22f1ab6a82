"""Small exported folders and a synthetic run, for tests of export, verify and report."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import BertConfig, BertForPreTraining

from ofa.config import FinetuneConfig, RunConfig, load
from ofa.data.tasks import TASKS
from ofa.export.hf import export_model
from ofa.export.recipe_file import Parent, describe_run
from ofa.metrics import MetricsLog
from ofa.models.adapters import scope
from ofa.models.blocks import sizes_of
from ofa.models.materialise import materialise, slice_masks
from ofa.models.task_models import AUTO_CLASSES
from ofa.pruning.mask_set import MaskSet
from ofa.recipe import Recipe
from tests.masked_oracle import random_masks
from tests.selection import keep_largest

SPARSITY = 0.9


def make_sparse_model(seed=0, sparsity=SPARSITY):
    """(model, keep): a BERT of two layers with exact zeros."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForPreTraining(BertConfig(vocab_size=64, max_position_embeddings=16, **sizes))
    keep = {name: keep_largest(weight.detach().abs(), sparsity) for name, weight in scope(model).items()}
    with torch.no_grad():
        for name, weight in scope(model).items():
            weight.mul_(keep[name])  # leaves -0.0 behind, as a multiplication does
    return model.eval(), keep


def make_recipe():
    """What a run of the shipped tiny recipe knows."""
    return describe_run(
        load(RunConfig, "tiny/ofa_90.json"),
        name="tiny/ofa_90",
        steps=1000,
        parents=[Parent("init", "/somewhere/runs/tiny/teacher/model", "ab" * 32)],
        data={"name": "docstrings", "fingerprint": "cd" * 32},
        versions={"torch": torch.__version__},
    )


@pytest.fixture
def fresh_compiler():
    """Counters and compiled code of one test are not those of the next."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    """A folder with a WordPiece vocabulary."""
    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}\n')
    return folder


@pytest.fixture(scope="session")
def sparse_model():
    """Factory of (model, keep)."""
    return make_sparse_model


@pytest.fixture(scope="session")
def run_recipe():
    """The recipe part that a run gives to the export."""
    return make_recipe()


@pytest.fixture
def exported(tmp_path, tokenizer_folder):
    """An exported folder at 90 %."""
    model, keep = make_sparse_model()
    export_model(tmp_path / "model", model, tokenizer_folder, keep, make_recipe())
    return tmp_path / "model"


@pytest.fixture(scope="session")
def synthetic_run(tmp_path_factory, tokenizer_folder):
    """Factory of run folders with plausible numbers: `synthetic_run(config_name, until, finished)`."""

    def make(name="tiny/ofa_90.json", until=1000, finished=True) -> Path:
        config = load(RunConfig, name)
        folder = tmp_path_factory.mktemp("checkout") / "runs" / name.removesuffix(".json")
        folder.mkdir(parents=True)
        _write_record(folder, config)
        _write_metrics(folder, config, until)
        if finished:
            model, keep = make_sparse_model(sparsity=SPARSITY if config.pruning else 0.0)
            export_model(folder / "model", model, tokenizer_folder, keep if config.pruning else {}, make_recipe())
            _write_result(folder)
        return folder

    return make


def _write_record(folder, config):
    record = {
        "config": config.model_dump(mode="json"),
        "config_fingerprint": config.fingerprint(),
        "data_fingerprint": "cd" * 32,
        "command": "pretrain.py --config <tiny> & more",
        "commit": "0123456789abcdef",
        "versions": {"python": "3.11.9", "torch": "2.13.0", "deepspeed": "0.19.8"},
        "world_size": 1,
        "hardware": {"device": "an example CPU", "cores": 2, "threads": 2},
    }
    (folder / "config.json").write_text(json.dumps(record))


def _write_metrics(folder, config, until):
    recipe, log = Recipe(config), MetricsLog(folder, tensorboard=False)
    noise = torch.randn(until + 1, generator=torch.Generator().manual_seed(0)).tolist()
    for step in range(until):
        knobs = recipe.at(step)
        loss = 5.4 + 3.6 * math.exp(-step / 80) + 0.8 * knobs.sparsity**4 * math.exp(-max(0, step - 500) / 300)
        if step % config.evaluate.every == 0:
            log.append({"step": step, "validation_loss": loss + 0.05, "masked_accuracy": 0.2, "time": 1.0 + step})
        if step % 10:
            continue
        line = {"step": step, "lr": knobs.lr, "loss": loss + 0.1 * noise[step], "masked_lm": loss, "time": 1.0 + step}
        if config.pruning:
            line |= {"masked_lm_kd": 0.4 * loss, "target_sparsity": knobs.sparsity, "scope_sparsity": knobs.sparsity}
            line |= {"sparsity": knobs.sparsity, "model_sparsity": 0.25 * knobs.sparsity}
            changed = knobs.update_mask and step > 0
            line |= {"dropped": int(4000 / (1 + step / 100)) + 60, "revived": 60 + step // 20} if changed else {}
        log.append({**line, "grad_norm": 1.0, "tokens_per_second": 21000 + 900 * noise[step], "mfu": 0.41})
    log.close()


def _write_result(folder):
    scores = {"dense teacher": (5.54, 0.0), "one-shot 90%": (5.98, 0.9), "floor": (6.58, 1.0)}
    scores["sparse student"] = (5.4, 0.9)
    rows = [
        {"name": name, "validation_loss": loss, "masked_accuracy": 0.2, "encoder_sparsity": zeros}
        | {"scope_sparsity": zeros, "model_sparsity": 0.26 * zeros}
        for name, (loss, zeros) in scores.items()
    ]
    places = {"model": str(folder / "model"), "report": str(folder / "report.html"), "tensorboard": "tensorboard"}
    result = {"rows": rows, "tokens_per_second": 21034.2, "steps": 1000, **places}
    (folder / "result.json").write_text(json.dumps(result))


TASK_INIT = {"sparse": "runs/tiny/ofa_90/model", "dense": "runs/tiny/teacher/model"}


def make_task_model(kind, sparsity=SPARSITY):
    """(model, keep): a task model of two layers; the pooler of a locked one was drawn, so it is dense."""
    model, _ = make_sparse_model(sparsity=0.0)
    config = model.config
    config.num_labels = {"classification": 2, "tokens": 3, "regression": 1, "questions": 2}[kind]
    torch.manual_seed(1)
    built = AUTO_CLASSES[kind].from_config(config).eval()
    scoped = {name: weight for name, weight in scope(built).items() if "pooler" not in name}
    keep = {name: keep_largest(weight.detach().abs(), sparsity) for name, weight in scoped.items()} if sparsity else {}
    with torch.no_grad():
        for name, mask in keep.items():
            scoped[name].mul_(mask)
    return built, keep


def make_task_config(task="rte", *, lock=True, pruning=None):
    """Of a fine-tuning run of 40 steps."""
    init = TASK_INIT["sparse" if lock else "dense"]
    values = {"model": {"init": init}, "task": {"name": task}, "lock": lock, "pruning": pruning}
    settings = {"batch": {"global_size": 8, "micro_size": 8}, "optimizer": {"lr": 0.001}}
    return FinetuneConfig.model_validate({**values, **settings, "schedule": {"total_steps": 40}})


def make_task_recipe(task, keep, *, lock=True, pruning=None):
    """What such a run knows."""
    config = make_task_config(task, lock=lock, pruning=pruning)
    name, parents = f"tiny/{task}", [Parent("init", config.model.init, "ab" * 32)]
    data, versions = {"name": task, "fingerprint": "cd" * 32}, {"torch": torch.__version__}
    recipe = describe_run(config, name=name, steps=40, parents=parents, data=data, versions=versions)
    scores = {metric: 0.75 for metric in TASKS[task].metrics}
    recipe |= {"best_step": 30, "scores": {"validation": {"validation_loss": 0.5, **scores}}}
    if lock:
        masks = MaskSet({name: mask.shape for name, mask in keep.items()})
        masks.replace(keep)
        recipe["lock"] = {"mask_hash": masks.hash(), "patterns": dict.fromkeys(keep, "unstructured")}
    return recipe


@pytest.fixture
def exported_task(tmp_path, tokenizer_folder):
    """Factory of exported task models: of a kind of task, and `locked`, `pruned`, `dense` or `compact` (locked, then
    cut to a structure)."""

    def make(task="rte", how="locked"):
        model, keep = make_task_model(TASKS[task].kind, 0.0 if how == "dense" else SPARSITY)
        if how == "pruned":  # the pooler too
            for name, weight in scope(model).items():
                keep[name] = keep.get(name, keep_largest(weight.detach().abs(), SPARSITY))
                weight.data.mul_(keep[name])
            keep = {name: keep[name] for name in scope(model)}
        pruning = {"sparsity": SPARSITY, "ramp_end": 10, "end": 20, "frequency": 5} if how == "pruned" else None
        if how == "compact":
            masks = random_masks(sizes_of(model), seed=1, dead=False)
            keep = slice_masks(keep, model, masks)
            model = materialise(model, masks)
        recipe = make_task_recipe(task, keep, lock=how in ("locked", "compact"), pruning=pruning)
        export_model(tmp_path / "task", model, tokenizer_folder, keep, recipe)
        return tmp_path / "task"

    return make


@pytest.fixture
def task_run(tmp_path, exported_task):
    """Factory of fine-tuning runs with plausible numbers, up to step `until`, finished or not."""

    def make(task="mrpc", how="locked", until=40, finished=True):
        pruning = {"sparsity": SPARSITY, "ramp_end": 10, "end": 20, "frequency": 5} if how == "pruned" else None
        folder = tmp_path / "runs" / "tiny" / task
        folder.mkdir(parents=True)
        _write_record(folder, make_task_config(task, lock=how == "locked", pruning=pruning))
        log, metrics = MetricsLog(folder, tensorboard=False), TASKS[task].metrics
        zeros = {"scope_sparsity": 0.0 if how == "dense" else SPARSITY, "target_sparsity": 0.0}
        for step in range(0, until + 1, 5):
            scores = {name: 0.7 + 0.001 * step for name in metrics}
            log.append(
                {"step": step, "validation_loss": 0.6, **scores, "scope_sparsity": zeros["scope_sparsity"], "time": 1.0}
            )
            losses = {"loss": 0.5, "label_loss": 0.5, "kd": 0.1}
            if step < until:
                log.append(
                    {"step": step, "lr": 1e-3, **losses, "train_accuracy": 0.5, "skipped": 0, **zeros, "time": 1.0}
                )
        log.close()
        if finished:
            exported_task(task, how).rename(folder / "model")
            row = {"name": "fine-tuned model", "validation_loss": 0.6, **dict.fromkeys(metrics, 0.73)}
            best = {"metric": TASKS[task].best, "best_step": 30, "steps": 40}
            (folder / "result.json").write_text(json.dumps({"rows": [row], "metrics": list(metrics), **best}))
        return folder

    return make
