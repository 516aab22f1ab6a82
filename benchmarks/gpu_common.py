"""What the runs on a GPU machine share: settings, timing, what a run hands back, data and processes.

In: the settings of a run. Out: a `Found`, which `gpu.py` prints and writes. Whatever a run makes lies in the folder of
its settings and goes with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.made_by import made_by
from benchmarks.step_batches import synthetic_text
from ofa.config import CHECKOUT
from ofa.data.shards import SPECIAL, Segment, ShardWriter, token_dtype, tokenizer_fingerprint, write_manifest
from ofa.tables import table
from ofa.timing import timed

MOST_ROWS = 36
"""Rows of a table, so that it fits the end of a log."""


@dataclass(frozen=True)
class Settings:
    """Where and how large."""

    device: str
    quick: bool
    place: Path
    """An empty folder for whatever the run makes."""

    @property
    def dtype(self) -> torch.dtype:
        """What matrix products are measured in."""
        return torch.float32 if self.device == "cpu" else torch.bfloat16

    @property
    def precision(self) -> str:
        """The same as a config says it."""
        return "fp32" if self.device == "cpu" else "bf16"


@dataclass
class Found:
    """What a run hands back."""

    head: Sequence[str]
    rows: list[list[str]]
    data: dict[str, Any]
    right: bool = True
    """False where something is not as it must be."""
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The table and the notes under it."""
        assert len(self.rows) <= MOST_ROWS, f"{len(self.rows)} rows do not fit a log's end"
        return "\n".join([table(self.head, self.rows), *self.notes])


@dataclass(frozen=True)
class Timing:
    """Of one call."""

    milliseconds: float
    spread: float
    """Difference of two repeats over their mean."""


def chosen_device(name: str) -> str:
    """The device meant by `auto`, `cpu` or `cuda`.

    Raises:
        SystemExit: cuda is asked for and not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: --device cuda: torch sees no CUDA device; use --device cpu --quick to try the script")
    return name


def timing(work: Callable[[], object], device: str, *, seconds: float = 0.1) -> Timing:
    """Two repeats of so many calls as fill `seconds`, after a call that compiles and warms up."""
    work()
    calls = max(1, min(200, int(seconds / max(timed(work, device), 1e-6))))
    found = [1000 * timed(lambda: [work() for _ in range(calls)], device) / calls for _ in range(2)]
    mean = sum(found) / 2
    return Timing(mean, abs(found[0] - found[1]) / mean)


def eager_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, teacher_logits: Tensor, *, temperature: float = 2.0
) -> Tensor:
    """0.5 * mean cross-entropy + 0.5 * T^2 * mean KL with all logits in memory: what chunks are held against.

    hidden [N, h], weight [V, h], bias [V], labels [N], teacher_logits [N, V].
    """
    logits = functional.linear(hidden, weight, bias)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    student = functional.log_softmax(logits / temperature, dim=-1)
    teacher = functional.log_softmax(teacher_logits.to(logits.dtype) / temperature, dim=-1)
    distillation = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return 0.5 * functional.cross_entropy(logits, labels) + 0.5 * temperature**2 * distillation


# ---- data and processes -----------------------------------------------------------------------------------------


def write_data(folder: Path, *, rows: int, length: int, vocab: int) -> None:
    """A prepared folder of random words; a tenth of the rows are for validation."""
    text = synthetic_text(rows, length, vocab)
    special = {name: int(text.tokenizer.get_vocab()[f"[{name.upper()}]"]) for name in SPECIAL}
    splits = {}
    for name, own in (("train", text.rows[rows // 10 :]), ("validation", text.rows[: rows // 10])):
        (folder / name).mkdir(parents=True)
        path = folder / name / "shard-00000.tar"
        writer = ShardWriter(path, token_dtype(vocab), 65536, special=special.values())
        for row in own:
            writer.add_row([Segment(segment) for segment in row])
        splits[name] = {"shards": [writer.close()]}
    text.tokenizer.save_pretrained(str(folder / "tokenizer"))
    manifest = {"mode": "doc_sentences", "sequence_length": length, "vocab_size": vocab, "splits": splits}
    manifest["tokenizer"] = {"fingerprint": tokenizer_fingerprint(folder / "tokenizer"), "special": special}
    write_manifest(folder, manifest)


def python(program: str, *arguments: str, cwd: Path) -> str:
    """Run a file of the checkout in a process of its own; returns what it printed.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    command = [sys.executable, str(CHECKOUT / program), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        said = f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        raise RuntimeError(f"{program} {' '.join(arguments)} ended with status {done.returncode}:\n{said}")
    return done.stdout


def pretrain(cwd: Path, name: str, config: Mapping[str, Any], *arguments: str) -> Path:
    """Run launch/pretrain.py on a config that is written to `cwd`; returns the run folder."""
    (cwd / f"{name}.json").write_text(json.dumps(config))
    folder = cwd / "runs" / name
    python("launch/pretrain.py", "--config", f"{name}.json", "--run-dir", str(folder), *arguments, cwd=cwd)
    return folder


def surroundings(settings: Settings) -> dict[str, Any]:
    """What a figure is worthless without."""
    return {"device": settings.device, "quick": settings.quick, **made_by()}
