"""Fine-tune a task model from an encoder whose zeros stay, as the config says.

    python launch/finetune.py --config tiny/finetune.json --with-teacher
    python launch/finetune.py --config downstream/sst2.json --set task.path=glue/SST-2
    deepspeed launch/finetune.py --config downstream/squad.json --set model.init=runs/ofa_90/model
    python launch/finetune.py --config downstream/mrpc.json --set lock=false --set model.init=bert-base-uncased

Exit status 0: done; 75: stopped and saved, start it again.
"""

import argparse
from pathlib import Path

import common

from ofa import config, files, inputs

SHARED = ("task.", "engine.", "log.", "batch.micro_size=", "evaluate.micro_size=")
"""Overrides that a teacher needs too: where the examples are and how they are read, threads, precision, memory."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[common.run_arguments()]
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
    if given.teacher_overrides and not given.with_teacher:
        parser.error("--set-teacher says how a teacher is made: it needs --with-teacher")
    return given


def teacher_config() -> str | None:
    """The config that makes the teacher; None if it is not asked for, or there already.

    Raises:
        ConfigError: no shipped config makes it.
    """
    if not OPTIONS.with_teacher:
        return None
    if CONFIG.teacher is None:
        raise config.ConfigError(f"--with-teacher: {OPTIONS.config} has no teacher section")
    if (Path(CONFIG.teacher.init) / "config.json").is_file():
        print(f"teacher: {CONFIG.teacher.init} is there already and serves as it is; remove its run to make it anew")
        return None
    name = config.config_that_makes(CONFIG.teacher.init)
    if name is None:
        raise config.ConfigError(
            f"--with-teacher: no config under {config.CONFIGS} makes {CONFIG.teacher.init}; set teacher.init to "
            "runs/NAME/model of one that is there, or to a model that exists"
        )
    return name


def run() -> int:
    """Train the teacher if it is asked for, then the model; the run's name is its config's path under `configs/`."""
    if TEACHER is not None:
        folder = config.run_folder(TEACHER)
        status = one_run(load_teacher_config(TEACHER), folder, folder)
        if status != common.DONE:
            return status
        check_inputs()
    return one_run(CONFIG, RUN_DIR, FOLDER, resume=OPTIONS.resume)


def one_run(settings: config.FinetuneConfig, run_dir: Path, name: Path, *, resume: str = "auto") -> int:
    """Do one run to its end."""
    with files.explained_space(run_dir, "this run", "free space and start the same command again"):
        label = name.relative_to("runs").as_posix()
        return finetune(settings, run_dir, name=label, resume=resume, time_limit=OPTIONS.time_limit)


def load_teacher_config(name: str) -> config.FinetuneConfig:
    """The teacher's config with the overrides that hold for both runs, and its own.

    Raises:
        ConfigError: it cannot be run.
    """
    both = [one for one in OPTIONS.overrides if one.startswith(SHARED)]
    return config.load(config.FinetuneConfig, name, [*both, *OPTIONS.teacher_overrides])


def check_inputs(*, teacher_first: bool = False) -> None:
    """Look for what the run needs, and for what the teacher needs that is made first.

    Raises:
        ValueError: it is not there.
    """
    if teacher_first:
        inputs.check_task_inputs(load_teacher_config(str(TEACHER)), "auto")
    own = CONFIG.model_copy(update={"teacher": None}) if teacher_first else CONFIG
    inputs.check_task_inputs(own, OPTIONS.resume)


if __name__ == "__main__":
    OPTIONS = arguments()
    with common.explained_errors(once=True):
        CONFIG = config.load(config.FinetuneConfig, OPTIONS.config, OPTIONS.overrides)
        FOLDER = config.run_folder(OPTIONS.config)
        RUN_DIR = Path(OPTIONS.run_dir or FOLDER)
        TEACHER = None
        if not (RUN_DIR / "result.json").is_file():  # a finished run needs its inputs no more
            TEACHER = teacher_config()
            check_inputs(teacher_first=TEACHER is not None)
    from ofa.downstream.finetune import finetune  # after the checks: it takes seconds to import

    common.main_wrapper(run)
