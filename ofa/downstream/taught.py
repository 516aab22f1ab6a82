"""What a task teacher says: asked in every step, or once for every row and looked up.

A teacher's outputs are a function of the row, so for all but the largest tasks they are computed once and kept in the
run folder; a run that continues, or another epoch, reads them.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch

from ofa import dist
from ofa.config import FinetuneConfig
from ofa.data.task_rows import TaskRows
from ofa.data.tasks import Kind
from ofa.downstream.evaluation import predict
from ofa.downstream.task_data import TaskData
from ofa.files import write_bytes
from ofa.models.task_training import TaskTeacher, TaughtRows

LOG = logging.getLogger(__name__)

OUTPUTS_FILE = "teacher_outputs.safetensors"
LARGEST = 256 * 2**20
"""Bytes of outputs that are kept without being asked to."""

VALUES, KEY = "values", "key"
"""Name of the tensor, and of the metadata that says what it was made from."""


def cached(
    config: FinetuneConfig, data: TaskData, teacher: TaskTeacher, *, epochs: float, folder: Path, fingerprint: str
) -> TaskTeacher | TaughtRows:
    """The teacher, or its outputs for all training rows where the config or their size says so (a collective call).

    Args:
        config: of the run.
        data: of the task.
        teacher: on its device.
        epochs: how often a row is read.
        folder: the run's.
        fingerprint: of the teacher's weights.
    """
    assert config.teacher is not None
    wanted = config.teacher.cache
    if wanted is None:
        wanted = epochs > 1 and _bytes(data) <= LARGEST
    if not wanted:
        return teacher
    path = folder / OUTPUTS_FILE
    order = ",".join(map(str, teacher.order or []))
    key = hashlib.sha256(f"{fingerprint} {data.fingerprint} {config.engine.precision} {order}".encode()).hexdigest()
    values = dist.on_rank_zero(lambda: _read(path, key))
    if values is None:
        LOG.info("asking the teacher once for all %d training rows", len(data.train.rows))
        size = config.evaluate.micro_size or config.batch.micro_size
        values = predict(teacher.targets, data.train.rows, data.task.kind, pad_id=data.pad_id, micro_size=size)
        if dist.rank() == 0:
            write_bytes(path, safetensors.numpy.save({VALUES: values}, metadata={KEY: key}))
    return _taught(values, data.task.kind, data.train.rows)


def warn_of_a_bad_teacher(answers: np.ndarray, data: TaskData) -> None:
    """Say so where a teacher is right on fewer training rows than the most frequent class for all would be: its classes
    may stand in another order than they were taken to (OFA-20).

    Args:
        answers: int64 [N], its class for each training row.
        data: of the task.
    """
    labels = data.train.rows.labels
    assert labels is not None
    right, frequent = (answers == labels).mean(), np.bincount(labels).max() / len(labels)
    LOG.info("the teacher is right on %.1f %% of the training rows", 100 * right)
    if right < frequent:
        LOG.warning(
            "that is less than the most frequent class for all (%.1f %%): are its classes in another order? Name them "
            "in the order of its ids as teacher.labels",
            100 * frequent,
        )


def _taught(values: np.ndarray, kind: Kind, rows: TaskRows) -> TaughtRows:
    starts = None
    if kind in ("tokens", "questions"):
        starts = torch.from_numpy(np.cumsum(rows.lengths) - rows.lengths).to(dist.device())
    return TaughtRows(torch.from_numpy(values).to(dist.device()), starts)


def _read(path: Path, key: str) -> np.ndarray | None:
    """Outputs that an earlier process of this run has kept; None if there are none of the same teacher and rows."""
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            return file.get_tensor(VALUES) if (file.metadata() or {}).get(KEY) == key else None
    except (FileNotFoundError, OSError, safetensors.SafetensorError):
        return None  # none yet, or cut short by a kill: they are made again


def _bytes(data: TaskData) -> int:
    """Of a teacher's outputs for the training rows."""
    kind, rows = data.task.kind, data.train.rows
    if kind in ("tokens", "questions"):
        return 4 * int(rows.lengths.sum()) * (2 if kind == "questions" else len(data.labels))
    return 4 * len(rows) * max(1, len(data.labels))
