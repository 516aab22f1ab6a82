"""What a fine-tuning run needs, held against what is there before anything is written."""

from __future__ import annotations

from ofa.config import FinetuneConfig
from ofa.data.tasks import TaskError
from ofa.downstream.task_data import TaskData, open_task_data
from ofa.inputs import check_task_inputs


def check_inputs(config: FinetuneConfig, resume: str) -> TaskData:
    """Open the task of a run whose batch divides and is no larger than an epoch, whose files and folders are there, and
    whose labels are known.

    Raises:
        ValueError: of many kinds, each saying what is wrong and what would be right.
    """
    check_task_inputs(config, resume)
    data = open_task_data(config)
    rows, size = len(data.train.rows), config.batch.global_size
    if size > rows:
        raise TaskError(
            f"batch.global_size is {size} and the train split has {rows} rows, so one step would read a row "
            f"several times: set it to at most {rows}"
        )
    return data
