"""What scripts that train on a task share, and CoFi on a corpus too: their command line, the checks before torch is
imported, and a teacher that is made first."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import common

from ofa import config, files, inputs

SHARED = ("task.", "engine.", "log.", "batch.micro_size=", "evaluate.micro_size=")
"""Overrides that a teacher needs too: where the examples are and how they are read, threads, precision, memory."""


class Trains(Protocol):
    """What does one run: `ofa.downstream.finetune.finetune` and its like."""

    def __call__(
        self, settings: Any, run_dir: Path, /, *, name: str, resume: str = "auto", time_limit: float | None = None
    ) -> int:
        """The process's exit status."""
        ...


@dataclass(frozen=True)
class TaskRun:
    """One command: a run on a task, and perhaps its teacher's before it."""

    options: argparse.Namespace
    settings: config.FinetuneConfig | config.CofiMlmConfig
    folder: Path
    """`runs/` and the config's name, which is the run's."""
    run_dir: Path
    teacher: str | None
    """Name of the config that makes the teacher; None if it is not asked for, or there already."""

    def do(self, own: Trains, tune: Trains, check: Callable[[Any], None]) -> int:
        """Train the teacher if it is asked for, then the model; returns the exit status.

        Args:
            own: does the run.
            tune: fine-tunes the teacher.
            check: refuses a model that the run's config does not fit, before time goes into its teacher.
        """
        if self.teacher is not None:
            with common.explained_errors(once=True):
                check(self.settings.model_copy(update={"teacher": None}))
            name = config.run_folder(self.teacher)
            status = self._one(tune, teacher_config(self.options, self.teacher), name, name)
            if status != common.DONE:
                return status
            _check_inputs(self.settings, self.options.resume)
        return self._one(own, self.settings, self.run_dir, self.folder, resume=self.options.resume)

    def _one(
        self, train: Trains, settings: config.TrainingConfig, run_dir: Path, name: Path, *, resume: str = "auto"
    ) -> int:
        with files.explained_space(run_dir, "this run", "free space and start the same command again"):
            label = name.relative_to("runs").as_posix()
            return train(settings, run_dir, name=label, resume=resume, time_limit=self.options.time_limit)


def prepare(description: str | None, kind: type[config.FinetuneConfig], *others: type[config.CofiMlmConfig]) -> TaskRun:
    """Read the command line and its config, of `kind` or one of the `others`, and look for what the run needs; ends the
    process where something is wrong, or that was all."""
    options = _arguments(description)
    with common.explained_errors(once=True):
        settings = config.load_one_of((kind, *others), options.config, options.overrides)
        folder = config.run_folder(options.config)
        run_dir = Path(options.run_dir or folder)
        teacher = None
        if options.check:
            inputs.check_beforehand(settings, run_dir, options.resume)
        finished = (run_dir / "result.json").is_file()  # it needs its inputs no more
        if options.check != "config" and not finished:
            teacher = _maker_of_the_teacher(options, settings)
            own = settings if teacher is None else settings.model_copy(update={"teacher": None})
            if teacher is not None:
                inputs.check_task_inputs(teacher_config(options, teacher), "auto")
            _check_inputs(own, options.resume, options.made)
    if options.check:
        common.say_that_nothing_is_wrong(options.check)
        sys.exit(common.DONE)
    if not finished:
        common.say_that_it_starts()
    return TaskRun(options, settings, folder, run_dir, teacher)


def _check_inputs(
    settings: config.FinetuneConfig | config.CofiMlmConfig, resume: str, made: Sequence[str] = ()
) -> None:
    if isinstance(settings, config.CofiMlmConfig):
        inputs.check_later_inputs(settings, resume, made)
    else:
        inputs.check_task_inputs(settings, resume, made)


def teacher_config(options: argparse.Namespace, name: str) -> config.FinetuneConfig:
    """The teacher's config with the overrides that hold for both runs, and its own.

    Raises:
        ConfigError: it cannot be run.
    """
    both = [one for one in options.overrides if one.startswith(SHARED)]
    return config.load(config.FinetuneConfig, name, [*both, *options.teacher_overrides])


def _arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[common.run_arguments()]
    )
    parser.add_argument(
        "--with-teacher",
        action="store_true",
        help="first make the task teacher, where teacher.init is the model of a shipped config and not there yet",
    )
    parser.add_argument(
        "--set-teacher",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="teacher_overrides",
        help="with --with-teacher: override one value of the teacher's config (what --set says of task, engine, log "
        "and the micro_sizes holds for both runs)",
    )
    given = parser.parse_args()
    common.check_made(parser, given)
    if given.teacher_overrides and not given.with_teacher:
        parser.error("--set-teacher says how a teacher is made: it needs --with-teacher")
    return given


def _maker_of_the_teacher(
    options: argparse.Namespace, settings: config.FinetuneConfig | config.CofiMlmConfig
) -> str | None:
    """Name of the config that makes the teacher; None if it is not asked for, or there already.

    Raises:
        ConfigError: no shipped config makes it.
    """
    if not options.with_teacher:
        return None
    if isinstance(settings, config.CofiMlmConfig):
        raise config.ConfigError(
            "--with-teacher makes teachers of tasks; those of masked words are made by launch/pretrain.py"
        )
    if settings.teacher is None:
        raise config.ConfigError(f"--with-teacher: {options.config} has no teacher section")
    if (Path(settings.teacher.init) / "config.json").is_file():
        print(f"teacher: {settings.teacher.init} is there already and serves as it is; remove its run to make it anew")
        return None
    name = config.config_that_makes(settings.teacher.init)
    if name is None:
        raise config.ConfigError(
            f"--with-teacher: no config under {config.CONFIGS} makes {settings.teacher.init}; set teacher.init to "
            "runs/NAME/model of one that is there, or to a model that exists"
        )
    return name
