"""Whether a device computes what the CPU computes, and whether runs on it keep their promises.

In: settings. Out: one line a check, each with what was found and what is allowed; the run fails if one does. Checks
that need the training command run it in processes of their own, in a folder that goes with them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.gpu_common import Found, Settings, eager_loss, pretrain, python, write_data
from benchmarks.stages import CASES, is_right
from benchmarks.step_batches import make_batches, synthetic_text
from ofa.config import CHECKOUT, ModelConfig, ObjectiveConfig, PruningConfig
from ofa.models.adapters import adapter_for
from ofa.models.build import build_model
from ofa.models.pretraining import MaskedLanguageModeling, Teacher, encode
from ofa.objectives import TeacherRows, chunked_loss
from ofa.pruning.allocation import ranking_groups
from ofa.pruning.pruner import Span
from ofa.pruning.ranking import Ranking
from tests.corpora import write_corpus


class Check(NamedTuple):
    """One line of the table."""

    name: str
    found: str
    right: bool


PATTERNS: dict[str, dict[str, object]] = {
    "single weights, per tensor": {"sparsity": 0.9},
    "single weights, global": {"sparsity": 0.85, "allocation": "global"},
    "2:4": {"sparsity": 0.5, "pattern": "2:4"},
    "4x1 blocks": {"sparsity": 0.8, "pattern": "4x1"},
}

ON_ONE_RANK = [case for case in CASES if case[1] == "bf16" or case[0] == "0"]
"""Of the stages' table: what matters on a GPU."""

LAST_STEP, RESUMED_AT = 24, 15


def measure(settings: Settings) -> Found:
    """Make every check; one that ends with an error is a check that failed."""
    torch.manual_seed(0)
    checks: list[Check] = []
    parts: list[Callable[[Settings], Iterator[Check]]] = [masks, losses, packing, gpu_tests, resuming, stages]
    for part in parts:
        try:
            checks += part(settings)
        except Exception as error:  # the others are still worth knowing
            checks.append(Check(part.__name__, " ".join(str(error).split())[-90:], False))
            print(f"{part.__name__}: {error}", file=sys.stderr)
    rows = [[check.name, check.found, "yes" if check.right else "NO"] for check in checks]
    right = all(check.right for check in checks)
    return Found(["check", "found", "right"], rows, {"checks": [check._asdict() for check in checks]}, right)


# ---- masks and losses -------------------------------------------------------------------------------------------


def masks(settings: Settings) -> Iterator[Check]:
    """OFA-10 and PERF-12 across devices: the masks of the same masters, with ties, and with dropped weights frozen."""
    size = 32 if settings.quick else 768
    shapes = {"a": torch.Size([size, size]), "b": torch.Size([4 * size, size]), "c": torch.Size([size, 4 * size])}
    for name, values in PATTERNS.items():
        config = PruningConfig.model_validate({"ramp_end": 0, "frequency": 1, **values})
        groups = ranking_groups(config, shapes)
        spans = [[Span(name, 0, shape.numel()) for name, shape in shapes.items()]]
        ranking = Ranking(groups, shapes, spans)
        masters = [torch.randn(shape.numel()).mul_(64).round_().div_(64) for shape in shapes.values()]  # many are equal
        later = [master + 0.2 * torch.randn_like(master) for master in masters]
        keeps = []
        for device in ("cpu", settings.device):
            on_device = [[part.to(device) for part in parts] for parts in (masters, later)]
            half = ranking.select(on_device[0], [group.final / 2 for group in groups])
            keeps.append((half, ranking.select(on_device[1], [group.final for group in groups], frozen=half)))
        differ = sum(int((own[key].cpu() != one[key]).sum()) for one, own in zip(*keeps, strict=True) for key in shapes)
        zeros = sum(int((~mask).sum()) for mask in keeps[1][1].values())
        yield Check(
            f"masks, {name}",
            f"{differ} of {2 * sum(map(torch.Size.numel, shapes.values())):,} bits differ "
            f"from the CPU's; {zeros:,} zeros",
            differ == 0 and zeros > 0,
        )


def losses(settings: Settings) -> Iterator[Check]:
    """PERF-6: the loss in chunks and its gradients against all logits in double precision on the CPU."""
    rows, width, vocab = (48, 32, 200) if settings.quick else (1024, 768, 30528)
    student = [torch.randn(rows, width), torch.randn(vocab, width) / 30, torch.randn(vocab)]
    teacher = [torch.randn(rows, width), torch.randn(vocab, width) / 30, torch.randn(vocab)]
    labels = torch.randint(vocab, (rows,))
    for dtype, allowed in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        exact = [part.to(dtype).double().requires_grad_() for part in student]
        logits = functional.linear(*(part.to(dtype).double() for part in teacher))
        expected = eager_loss(exact[0], exact[1], exact[2], labels, logits)
        expected.backward()
        own = [part.to(settings.device, dtype, copy=True).requires_grad_() for part in student]
        taught = TeacherRows(*(part.to(settings.device, dtype) for part in teacher))
        scale = {"ce_scale": 0.5 / rows, "kd_scale": 0.5 / rows}
        on_device = labels.to(settings.device)
        loss = chunked_loss(own[0], own[1], own[2], on_device, taught, **scale, chunk_rows=rows // 3).loss
        loss.backward()
        worst = max(relative(loss, expected), *(relative(a.grad, b.grad) for a, b in zip(own, exact, strict=True)))
        name = str(dtype).removeprefix("torch.")
        yield Check(f"loss and gradients, {name}", f"{worst:.1e} off double, at most {allowed:.0e}", worst <= allowed)


def packing(settings: Settings) -> Iterator[Check]:
    """PERF-15: packed segments against the same segments alone; and the whole loss against double on the CPU."""
    vocab, length, hidden = (500, 32, 64) if settings.quick else (30522, 512, 768)
    batches = make_batches(synthetic_text(4, length, vocab), 1)
    micro, totals = batches.by_layout["packed"][0].micro, batches.by_layout["packed"][0].totals
    model = small_model(vocab, length, hidden)
    twin, teacher = deepcopy(model).double(), small_model(vocab, length, hidden, seed=1)
    objective = ObjectiveConfig(ce_weight=0.5, kd_weight=0.5)
    expected = loss_of(twin, deepcopy(teacher).double(), objective, micro, totals)
    nn.Module.to(model, settings.device)
    on_device = micro.to(torch.device(settings.device))
    with torch.no_grad():
        packed = encode(model, adapter_for("bert"), on_device)
        worst = 0.0
        for row, documents in enumerate(micro.document_ids):
            for number in range(1, int(documents.max()) + 1):
                own = (documents == number).nonzero()[:, 0].to(settings.device)
                alone = model.get_submodule("bert")(on_device.input_ids[row, own][None]).last_hidden_state[0]
                worst = max(worst, float((packed[row, own] - alone).abs().max()))
    yield Check("packed segments, fp32", f"{worst:.1e} from the same alone, at most 1e-05", worst <= 1e-5)
    nn.Module.to(teacher, settings.device)
    off = relative(loss_of(model, teacher, objective, on_device, totals), expected)
    yield Check("loss of a model, fp32", f"{off:.1e} off double on the CPU, at most 1e-05", off <= 1e-5)


def small_model(vocab: int, length: int, hidden: int, seed: int = 0):
    """Two layers, without dropout."""
    sizes = {"hidden_size": hidden, "num_hidden_layers": 2, "num_attention_heads": hidden // 16}
    lengths = {"vocab_size": vocab, "max_position_embeddings": length, "intermediate_size": 4 * hidden}
    architecture = {"model_type": "bert", **sizes, **lengths, "initializer_range": 0.8 / hidden**0.5}
    return build_model(ModelConfig(architecture=architecture, dropout=0.0), seed=seed).eval()


def loss_of(model, teacher, objective: ObjectiveConfig, micro, totals) -> Tensor:
    """The loss that the loop trains on."""
    with torch.no_grad():
        targets = Teacher(teacher, objective).targets(micro)
        return MaskedLanguageModeling(model, objective)(micro, totals, targets)[0]


def relative(found: Tensor | None, expected: Tensor | None) -> float:
    """Norm of the difference over the norm of what is expected."""
    assert found is not None and expected is not None
    found, expected = found.detach().cpu().double(), expected.detach()
    return float((found - expected).norm() / expected.norm())


# ---- tests and runs ---------------------------------------------------------------------------------------------


def gpu_tests(settings: Settings) -> Iterator[Check]:
    """The tests that are marked `gpu`; only the files that hold one are read, as others import what is not here."""
    files = [path for path in (CHECKOUT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *map(str, sorted(files))]
    if settings.device == "cpu":
        command.append("--collect-only")
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    last = re.sub(r" in [\d.]+s.*", "", done.stdout.strip().splitlines()[-1].strip("= ")) if done.stdout.strip() else ""
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-2000:], file=sys.stderr)
    yield Check("tests marked gpu", last or done.stderr[-60:], done.returncode == 0)


def resuming(settings: Settings) -> Iterator[Check]:
    """OFA-29: a run from its checkpoint ends with the bytes of the run that was left alone; so does a second run."""
    place = settings.place / "resuming"
    place.mkdir()
    write_data(place / "data", rows=160, length=64, vocab=300)
    dense = run_config(settings)
    teacher = str(pretrain(place, "teacher", dense) / "model")
    pruning = {"sparsity": 0.9, "ramp_end": 12, "end": 18, "frequency": 3}
    sparse = {**dense, "pruning": pruning, "teacher": {"init": teacher}}
    sparse["model"] = {**dense["model"], "init": teacher}
    folder = pretrain(place, "sparse", sparse)
    alone, again = model_bytes(folder), model_bytes(pretrain(place, "again", sparse))
    yield Check("a second run", "the same bytes" if again == alone else "other bytes", again == alone)
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoints" / f"step-{LAST_STEP:08d}")
    for name in ("result.json", "report.html"):
        (folder / name).unlink()
    (folder / "checkpoints" / "latest").write_text(f"step-{RESUMED_AT:08d}\n")
    resumed = model_bytes(pretrain(place, "sparse", sparse))
    what = f"the same bytes from step {RESUMED_AT} of {LAST_STEP}" if resumed == alone else "other bytes"
    yield Check("a resumed run", what, resumed == alone)


def run_config(settings: Settings) -> dict:
    """A small dense run with dropout and accumulation."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    return {
        "data": {"path": "data", "sequence_length": 64, "shuffle_window": 2},
        "model": {
            "architecture": {"model_type": "bert", "vocab_size": 300, "max_position_embeddings": 64, **sizes},
        },
        "batch": {"global_size": 16, "micro_size": 8},
        "optimizer": {"lr": 1e-3},
        "schedule": {"total_steps": LAST_STEP, "warmup_steps": 2},
        "engine": {"precision": settings.precision, "threads": 1},
        "checkpoint": {"every": RESUMED_AT, "keep_last": 2},
        "evaluate": {"every": 12},
        "log": {"tensorboard": False},
    }


def model_bytes(folder: Path) -> bytes:
    """The exported weights."""
    return (folder / "model" / "model.safetensors").read_bytes()


def stages(settings: Settings) -> Iterator[Check]:
    """OFA-21 to 24 on one rank: zeros in live weights, masters and moments after a run, by stage and mode."""
    for case in ON_ONE_RANK[:2] if settings.quick else ON_ONE_RANK:
        place = settings.place / "-".join(case)
        (place / "run").mkdir(parents=True)
        write_corpus(place / "data", rows=240)
        python("benchmarks/stages.py", "--worker", *case, cwd=place)
        rank = json.loads((place / "rank-0.json").read_text())
        lines = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
        row = {
            "mode": case[2],
            "mask_hashes": [rank["mask_hash"]],
            "zeros": rank["zeros"],
            "zeros_asked": rank["zeros_asked"],
            "not_zero_behind_the_masks": rank["behind_the_masks"],
            "came_back_at_refreshes": sum(line.get("revived", 0) for line in lines),
        }
        said = f"{row['not_zero_behind_the_masks']} alive behind {rank['zeros']:,} zeros, "
        yield Check(f"ZeRO {' '.join(case)}", f"{said}{row['came_back_at_refreshes']} came back", is_right(row))
