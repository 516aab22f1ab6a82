"""What a run needs before it begins, held against what is there: said within a second, before torch is imported and
before anything is written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ofa.config import CofiMlmConfig, FinetuneConfig, QatConfig, RunConfig, TrainingConfig
from ofa.data.fit import check_corpus, check_run
from ofa.data.plan import accumulation
from ofa.data.shards import Corpus
from ofa.data.task_files import check_files
from ofa.data.tasks import task_for
from ofa.files import is_within
from ofa.models.place import check_place
from ofa.run_files import Otherwise, check_config, check_resume, run_of

RESUME_WORDS = ("auto", "never")
"""Values of --resume that name no folder."""


def check_inputs(config: RunConfig, resume: str) -> Corpus:
    """Open the corpus of a run whose batch divides, whose data fit, and whose folders are there.

    Args:
        config: of the run.
        resume: `auto`, `never` or a checkpoint folder.

    Raises:
        ValueError: of many kinds, each saying what is wrong and what would be right.
    """
    _check_start(config, resume)
    corpus = _fitting_corpus(config)
    _check_models(config, ())
    return corpus


def check_later_inputs(config: RunConfig, resume: str, made: Iterable[str | Path]) -> None:
    """The same of a run that begins when others have ended.

    Args:
        config, resume: as those of `check_inputs`.
        made: folders that they make; what lies in them is not looked for.

    Raises:
        ValueError: as `check_inputs`.
    """
    _check_start(config, resume)
    if not is_within(config.data.path, made):
        _fitting_corpus(config)
    _check_models(config, made)


def check_task_inputs(config: FinetuneConfig, resume: str, made: Iterable[str | Path] = ()) -> None:
    """The same for fine-tuning, as far as it can be said without a tokenizer.

    Args and errors as those of `check_later_inputs`.
    """
    _check_start(config, resume)
    if config.task.path is None or not is_within(config.task.path, made):
        check_files(task_for(config.task), config.task)
    _check_models(config, made)


class ModelPlace(NamedTuple):
    """Where a run takes a model from."""

    init: str
    key: str
    maker: str
    """The script whose runs make such models."""

    def check(self) -> None:
        """Raise ModelError if it is a folder that is not there."""
        check_place(self.init, self.key, maker=self.maker)


def model_places(config: TrainingConfig) -> list[ModelPlace]:
    """Of the base and the teacher, as far as a run has them."""
    assert isinstance(config, RunConfig | FinetuneConfig)
    base = "launch/finetune.py" if isinstance(config, QatConfig) else "launch/pretrain.py"
    teacher = "launch/finetune.py" if isinstance(config, FinetuneConfig) else "launch/pretrain.py"
    places = [] if config.model.init is None else [ModelPlace(config.model.init, "model.init", base)]
    return places if config.teacher is None else [*places, ModelPlace(config.teacher.init, "teacher.init", teacher)]


def check_beforehand(config: TrainingConfig, run_dir: Path, resume: str) -> None:
    """What of a run can be checked long before it begins, when its data and models may not have been made.

    Args:
        config, resume: as those of `check_inputs`.
        run_dir: its folder; may hold the run's beginning.

    Raises:
        ValueError: a batch that the ranks cannot share, no such checkpoint folder, or a run that is not to be
            continued, or has another config.
    """
    _check_start(config, resume)
    check_resume(run_dir, resume)
    if (run_dir / "config.json").is_file():
        check_config(run_dir, config)


def _fitting_corpus(config: RunConfig) -> Corpus:
    corpus = Corpus.open(config.data.path)
    check_corpus(corpus, config.data)
    check_run(corpus, config)
    return corpus


def _check_models(config: TrainingConfig, made: Iterable[str | Path]) -> None:
    for place in model_places(config):
        if not is_within(place.init, made):
            place.check()


def _check_start(config: TrainingConfig, resume: str) -> None:
    if resume not in RESUME_WORDS:
        _check_resumed(Path(resume), config)
    accumulation(config.batch, int(os.environ.get("WORLD_SIZE", "1")))


def _check_resumed(checkpoint: Path, config: TrainingConfig) -> None:
    """Refuse the checkpoint of a run with another config; whether it is whole is looked at when it is read."""
    if not checkpoint.is_dir():
        raise ValueError(
            f"--resume {checkpoint}: expected auto, never, or a checkpoint folder, and no such folder exists"
        )
    run = run_of(checkpoint)
    if run is not None:
        check_config(run, config, without_resume(config))


def without_resume(config: TrainingConfig) -> Otherwise:
    """What to do for a config that is not that of the checkpoint's run (`ofa.run_files.check_config`)."""
    unit = "steps" if isinstance(config, CofiMlmConfig) else "epochs"

    def otherwise(changed: Sequence[str]) -> str:
        anew = "begin anew, without --resume and in another --run-dir"
        if not any(one.startswith("structure.") for one in changed):
            return anew
        return (
            f"{anew}: a checkpoint, also one of the dense stage, serves the structure of its own run alone. Runs to "
            "several targets can share a dense model that is trained already: as model.init, with "
            f"structure.begin_{unit}=0"
        )

    return otherwise
