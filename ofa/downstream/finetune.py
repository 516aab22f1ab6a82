"""Fine-tuning: a task model from an encoder whose zeros stay."""

from __future__ import annotations

from pathlib import Path

from ofa.config import FinetuneConfig
from ofa.downstream.assemble import FinetuningRun, assemble
from ofa.downstream.finish import finish
from ofa.downstream.inputs import check_inputs
from ofa.train import Kind, run_to_end

FINETUNING: Kind[FinetuneConfig, FinetuningRun] = Kind(check_inputs, assemble, finish)


def finetune(
    config: FinetuneConfig, run_dir: Path, *, name: str, resume: str = "auto", time_limit: float | None = None
) -> int:
    """Do one run and return the process's exit status: see `ofa.train.run_to_end`."""
    return run_to_end(FINETUNING, config, run_dir, name=name, resume=resume, time_limit=time_limit)
