"""A chain of jobs handed to Slurm, each after the success of the one before it.

    <jobs>/  code/<commit>/  <job>_0_log.out (and of each other rank)  <job>_submitted.pkl
    <run>/jobs.json          which jobs were submitted for a run, with command and log
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError

from ofa.cluster import partitions
from ofa.cluster.attempt import Command, JobTask
from ofa.cluster.command import ScriptCall, check
from ofa.cluster.errors import SubmitError
from ofa.cluster.resources import Resources
from ofa.cluster.slurm import SlurmError, ask
from ofa.cluster.snapshot import Code
from ofa.cluster.verdict import Limits
from ofa.run_files import RunFolderError, read_json, write_json

JOBS_FILE = "jobs.json"


@dataclass(frozen=True)
class Link:
    """One job of a chain, or one array of jobs."""

    calls: tuple[ScriptCall, ...]
    """What each job of the array does; one: a job by itself."""

    resources: Resources
    limits: Limits
    at_a_time: int
    """Jobs of the array that run side by side."""


@dataclass(frozen=True)
class Submitted:
    """A job in the queue."""

    job: str
    """Its number; of an array with that of the task, `17_3`."""

    call: ScriptCall
    log: Path
    """Of rank 0, over all attempts."""


def check_chain(chain: Sequence[Link], *, slurm: bool) -> None:
    """Refuse a chain of which some job would not start.

    Args:
        chain: in order.
        slurm: hold it against the partitions that there are.

    Raises:
        SubmitError, ConfigError: what is wrong.
    """
    groups = partitions.partitions() if slurm else []
    folders: set[Path] = set()
    for number, link in enumerate(chain):
        for call in link.calls:
            if call.run_dir is not None and call.run_dir.absolute() in folders:
                raise SubmitError(f"two jobs would have the run folder {call.run_dir}; give one another --run-dir")
            folders |= {call.run_dir.absolute()} if call.run_dir else set()
        if slurm:
            partitions.check(link.resources, groups)
        for call in link.calls:
            check(call, link.resources.rank_counts(), first=number == 0)


def scripts(chain: Sequence[Link], folder: Path, code: Code) -> list[str]:
    """The batch script of each link.

    Args:
        chain: in order.
        folder: of submitit's files.
        code: that the jobs run.

    Raises:
        SubmitError: there is no Slurm here.
    """
    return [
        _script(link, folder, code, f"afterok:JOB_{number}" if number else None) for number, link in enumerate(chain)
    ]


def ask_slurm(chain: Sequence[Link], folder: Path, code: Code) -> None:
    """Have Slurm itself say whether it would take each job; nothing is queued.

    Raises:
        SubmitError: in Slurm's words.
    """
    for link in chain:
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
            file.write(_script(link, folder, code, None))
            file.flush()
            try:
                ask("sbatch", "--test-only", file.name)
            except SlurmError as error:
                if partitions.BUSY not in str(error):
                    raise SubmitError(f"{link.calls[0].name}: {error}") from None


def submit(chain: Sequence[Link], folder: Path, code: Code) -> list[Submitted]:
    """Queue a chain that was checked.

    Args:
        chain: in order.
        folder: of submitit's files; made if it is not there.
        code: that the jobs run; copied.

    Raises:
        SubmitError: Slurm refuses a job; those before it are taken back.
    """
    code.make()
    done: list[Submitted] = []
    before: str | None = None
    for link in chain:
        try:
            new = _submit_link(link, folder, code, None if before is None else f"afterok:{before}")
        except (subprocess.SubprocessError, FailedJobError, OSError) as error:
            for one in done:
                with contextlib.suppress(SlurmError):
                    ask("scancel", one.job)
            raise SubmitError(f"{link.calls[0].name}: {' '.join(str(error).split())}; nothing is queued") from error
        before = new[0].job.split("_")[0]
        for one in new:
            note(one)
        done += new
    return done


def note(submitted: Submitted) -> None:
    """Write down in the run folder which job was submitted for it."""
    call = submitted.call
    if call.run_dir is None:
        return
    path = call.run_dir / JOBS_FILE
    call.run_dir.mkdir(parents=True, exist_ok=True)
    jobs: list[Any] = []
    with contextlib.suppress(RunFolderError):
        jobs = read_json(path).get("jobs", [])
    command = " ".join(call.program(Path()))
    when = datetime.now(UTC).isoformat(timespec="seconds")
    jobs.append({"job": submitted.job, "time": when, "command": command, "log": str(submitted.log)})
    write_json(path, {"jobs": jobs})


def task(call: ScriptCall, link: Link, folder: Path, code: Path) -> JobTask:
    """What submitit calls in each task of a job."""
    record = None if call.run_dir is None else call.run_dir.absolute()
    command = Command(call.program(code), Path.cwd(), call.trains, record)
    return JobTask(command, folder=folder, grace=link.resources.grace, limits=link.limits)


def _submit_link(link: Link, folder: Path, code: Code, dependency: str | None) -> list[Submitted]:
    executor = _executor(link, folder, code, dependency)
    tasks = [task(call, link, folder, code.path) for call in link.calls]
    if len(tasks) == 1:
        jobs = [executor.submit(tasks[0])]
    else:
        with executor.batch():
            jobs = [executor.submit(one) for one in tasks]
    return [
        Submitted(job.job_id, call, folder / f"{job.job_id}_0_log.out")
        for job, call in zip(jobs, link.calls, strict=True)
    ]


def _executor(link: Link, folder: Path, code: Code, dependency: str | None) -> submitit.SlurmExecutor:
    try:
        executor = submitit.SlurmExecutor(folder=folder)
    except RuntimeError:
        raise SubmitError("there is no srun here: submit from a login node of a Slurm cluster") from None
    call = link.calls[0]
    name = call.name if len(link.calls) == 1 else call.script
    parameters = link.resources.parameters(name, code.path, dependency)
    executor.update_parameters(**parameters, array_parallelism=link.at_a_time)
    return executor


def _script(link: Link, folder: Path, code: Code, dependency: str | None) -> str:
    executor = _executor(link, folder, code, dependency)
    if len(link.calls) > 1:
        executor.parameters["map_count"] = len(link.calls)
    return executor._make_submission_file_text(executor._submitit_command_str, "")
