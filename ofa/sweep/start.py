"""One sweep from its config to its table: plan, check, run, and after every cell the files that say what was found.

runs/<sweep>/  config.json  results.jsonl  table.md  sweep.png  <cell>/ (run folders, each with output.txt)  jobs/
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ofa.code_version import commit
from ofa.config import SweepConfig, TrainingConfig
from ofa.run_files import write_json
from ofa.run_folder import RunFolder
from ofa.sweep.axes import SweepError
from ofa.sweep.cells import Cell, check, check_places, chosen, missing_places
from ofa.sweep.findings import show, write_findings
from ofa.sweep.jobs import JobStarter
from ofa.sweep.local import LocalStarter
from ofa.sweep.plan import plan
from ofa.sweep.preview import commands, missing_lines, summary
from ofa.sweep.run import Sweep


def sweep(
    config: SweepConfig,
    folder: Path,
    *,
    origin: str = "",
    only: str | None = None,
    workers: int | None = None,
    slurm: bool = False,
    uncommitted: bool = False,
    limit: float | None = None,
) -> int:
    """Do what is left of a sweep, print its table, and return the process's exit status.

    Args:
        config: what to run.
        folder: the sweep's; run folders are made in it.
        origin: the file of the config, which errors name.
        only: pattern of the shell for the names of the cells that are run; the table has all.
        workers: cells side by side; None: 1 here, all of them as jobs of Slurm, of local ones what fits.
        slurm: submit them as jobs.
        uncommitted: with `slurm`: of the checkout's files as they are, and not of its commit.
        limit: seconds after which each cell saves and ends, to be continued by another start.

    Raises:
        ValueError: before any cell is started, with the cell and the key that are wrong.
    """
    cells, configs = _checked(config, folder, origin)
    todo = chosen(cells, only)
    own = RunFolder(folder)
    own.acquire()
    try:
        check_places(todo, configs)
        starter = _job_starter(config, folder, todo, configs, workers, uncommitted=uncommitted) if slurm else None
        write_json(own.config, _record(config, cells))
        arguments = [] if limit is None else ["--time-limit", str(max(1, round(limit)))]
        running = Sweep(
            todo,
            configs,
            starter or LocalStarter(min(workers or 1, len(todo))),
            arguments=arguments,
            after=lambda outcome: write_findings(config, cells, folder, outcome),
            stop=own.stop,
        )
        outcome = running.run()
        write_findings(config, cells, folder, outcome)
    finally:
        own.release()
    show(config, cells, folder, outcome)
    return outcome.status()


def _job_starter(
    config: SweepConfig,
    folder: Path,
    todo: Sequence[Cell],
    configs: dict[str, TrainingConfig],
    workers: int | None,
    *,
    uncommitted: bool,
) -> JobStarter:
    starter = JobStarter(folder / "jobs", config.slurm, workers, uncommitted=uncommitted)
    starter.check(todo, configs)
    starter.workers = min(starter.workers, len(todo))  # the cores of this machine are shared out between as many
    return starter


def check_sweep(
    config: SweepConfig, folder: Path, *, origin: str, only: str | None = None, made: Sequence[str] = ()
) -> None:
    """Refuse a sweep that could not be started; nothing is started or written.

    Args:
        config, folder, origin, only: as of `sweep`.
        made: folders that others make before it is; what lies in them is not looked for.

    Raises:
        ValueError: as `sweep`.
    """
    cells, configs = _checked(config, folder, origin)
    check_places(chosen(cells, only), configs, made)


def preview(config: SweepConfig, folder: Path, *, origin: str, only: str | None = None, whole: bool = False) -> str:
    """Check a sweep's configs and say what it would run, and what is not there yet; nothing is started or written.

    Args:
        config, folder, origin, only: as of `sweep`.
        whole: the command lines, in place of what differs between them.

    Raises:
        ValueError: as `sweep`, but for models and task files that are not there.
    """
    cells, configs = _checked(config, folder, origin)
    todo = chosen(cells, only)
    missing = missing_lines(missing_places(todo, configs), len(todo))
    return "\n".join([commands(todo) if whole else summary(todo, folder), *missing])


def _checked(config: SweepConfig, folder: Path, origin: str) -> tuple[Sequence[Cell], dict[str, TrainingConfig]]:
    """The cells and their configs; the sweep's file is named beside theirs, since the mistake may stand in either."""
    try:
        cells = plan(config, folder)
        return cells, check(cells)
    except ValueError as error:
        raise SweepError(f"{origin}: {error}" if origin else str(error)) from None


def _record(config: SweepConfig, cells: Sequence[Cell]) -> dict[str, object]:
    """What was asked for last; a sweep may grow, so it is no promise."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    names = [cell.name for cell in cells]
    return {"config": config.model_dump(mode="json"), "command": command, "commit": commit(), "cells": names}
