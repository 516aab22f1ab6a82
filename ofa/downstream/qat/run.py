"""Quantisation-aware training: a task model that computes in 8 bits, its zeros kept."""

from __future__ import annotations

from pathlib import Path

from ofa.config import QatConfig
from ofa.downstream.finish import finish
from ofa.downstream.inputs import check_inputs
from ofa.downstream.qat.assemble import assemble
from ofa.downstream.qat.runs import QatRun
from ofa.train import Kind, run_to_end

QAT: Kind[QatConfig, QatRun] = Kind(check_inputs, assemble, finish)


def qat(config: QatConfig, run_dir: Path, *, name: str, resume: str = "auto", time_limit: float | None = None) -> int:
    """Do one run and return the process's exit status: see `ofa.train.run_to_end`."""
    return run_to_end(QAT, config, run_dir, name=name, resume=resume, time_limit=time_limit)
