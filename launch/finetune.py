"""Fine-tune a task model from an encoder whose zeros stay, as the config says.

    python launch/finetune.py --config tiny/finetune.json --with-teacher
    python launch/finetune.py --config downstream/sst2.json --set task.path=glue/SST-2
    deepspeed launch/finetune.py --config downstream/squad.json --set model.init=runs/ofa_90/model
    python launch/finetune.py --config downstream/mrpc.json --set lock=false --set model.init=bert-base-uncased
"""

import argparse
from pathlib import Path

import common

from ofa import config, files, inputs


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
    return parser.parse_args()


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
        status = one_run(config.load(config.FinetuneConfig, TEACHER, shared()), folder, folder)
        if status != common.DONE:
            return status
        inputs.check_task_inputs(CONFIG, OPTIONS.resume)
    return one_run(CONFIG, RUN_DIR, FOLDER, resume=OPTIONS.resume)


def one_run(settings: config.FinetuneConfig, run_dir: Path, name: Path, *, resume: str = "auto") -> int:
    """Do one run to its end."""
    with files.explained_space(run_dir, "this run", "free space and start the same command again"):
        label = name.relative_to("runs").as_posix()
        return finetune(settings, run_dir, name=label, resume=resume, time_limit=OPTIONS.time_limit)


def shared() -> list[str]:
    """Overrides that a teacher needs too: where the examples are and how they are read, threads, precision."""
    return [one for one in OPTIONS.overrides if one.startswith(("task.", "engine.", "log."))]


if __name__ == "__main__":
    OPTIONS = arguments()
    with common.explained_errors(once=True):
        CONFIG = config.load(config.FinetuneConfig, OPTIONS.config, OPTIONS.overrides)
        FOLDER = config.run_folder(OPTIONS.config)
        RUN_DIR = Path(OPTIONS.run_dir or FOLDER)
        TEACHER = teacher_config()
        if TEACHER is None and not (RUN_DIR / "result.json").is_file():  # a finished run needs its inputs no more
            inputs.check_task_inputs(CONFIG, OPTIONS.resume)
    from ofa.downstream.finetune import finetune  # after the checks: it takes seconds to import

    common.main_wrapper(run)
