"""What a fine-tuning run needs, held against what is there before anything is written."""

from __future__ import annotations

from ofa.config import FinetuneConfig
from ofa.data.tasks import TaskError, task_for
from ofa.downstream.assemble import check_last_refresh
from ofa.downstream.task_data import TaskData, check_length, open_task_data
from ofa.inputs import check_task_inputs
from ofa.models.build import read_config
from ofa.models.task_models import check_head, check_teacher


def check_inputs(config: FinetuneConfig, resume: str) -> TaskData:
    """Open the task of a run whose batch divides and is no larger than an epoch, whose files and folders are there,
    whose models are of the task, and whose labels are known. What can be said without the rows is said before they are
    read, which takes minutes for a large task.

    Raises:
        ValueError: of many kinds, each saying what is wrong and what would be right.
    """
    check_task_inputs(config, resume)
    check_models(config)
    if config.schedule.total_steps is not None:
        check_last_refresh(config, config.schedule.total_steps)
    data = open_task_data(config)
    rows, size = len(data.train.rows), config.batch.global_size
    if size > rows:
        raise TaskError(
            f"batch.global_size is {size} and the train split has {rows} rows, so one step would read a row "
            f"several times: set it to at most {rows}"
        )
    return data


def check_models(config: FinetuneConfig) -> None:
    """Hold the head and the classes of `model.init` and of the teacher against the task, by their config.json alone;
    classes that only the training split names are looked at when it has been read. The head comes before the length:
    a model of another task is refused as that, however long its rows.

    Raises:
        ModelError: with what a model is, and what the task needs.
        AdapterError: one is of an architecture without a row.
    """
    task = task_for(config.task)
    check_head(read_config(config.model.init), config.model, task, task.labels)
    check_length(task, config.model.init)
    if config.teacher is not None:
        check_teacher(read_config(config.teacher.init), config.teacher, task, task.labels)
        check_length(task, config.teacher.init)
