"""Pre-training: teacher preparation, sparse pre-training, one-shot pruning."""

from __future__ import annotations

from pathlib import Path

from ofa.assemble import PretrainingRun, assemble
from ofa.config import RunConfig
from ofa.finish import finish
from ofa.inputs import check_inputs
from ofa.train import Kind, run_to_end

PRETRAINING: Kind[RunConfig, PretrainingRun] = Kind(check_inputs, assemble, finish)


def pretrain(
    config: RunConfig, run_dir: Path, *, name: str, resume: str = "auto", time_limit: float | None = None
) -> int:
    """Do one run and return the process's exit status: see `ofa.train.run_to_end`."""
    return run_to_end(PRETRAINING, config, run_dir, name=name, resume=resume, time_limit=time_limit)
