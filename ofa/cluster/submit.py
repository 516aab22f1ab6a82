"""A chain of jobs handed to Slurm, each after the success of the one before it.

    <jobs>/  code/<commit>/  <job>_0_log.out (and of each other rank)  <job>_submitted.pkl
    <run>/jobs.json          which jobs were submitted for a run, with command and log
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import submitit

from ofa.cluster import partitions
from ofa.cluster.attempt import Command, JobTask
from ofa.cluster.attempts import attempts_folder, attempts_of
from ofa.cluster.check import check_all, for_each
from ofa.cluster.command import ScriptCall
from ofa.cluster.division import check_division
from ofa.cluster.follow import FORGOTTEN
from ofa.cluster.jobs_file import live_local_job, note_job, noted_jobs
from ofa.cluster.queue import among, has_slurm, whoever
from ofa.cluster.resources import Resources
from ofa.cluster.verdict import DONE, Limits
from ofa.slurm.commands import WITHOUT, NoSlurm, SlurmError, ask, said
from ofa.slurm.environment import outside_of_jobs
from ofa.slurm.errors import SubmitError
from ofa.slurm.snapshot import Code

DEAF = shlex.quote('trap "" USR2 TERM; exec "$0" "$@"')
"""A task hears nothing of signals until it can answer them, seconds after its start: they would end it, and the job
with it. What comes in these seconds is lost: a job that is preempted then is ended when its grace is over, and queued
again by Slurm; one whose limit is that near is ended at it, and is not. `Resources.check` leaves time for the start
also where Slurm signals a minute early."""

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

    since: str = ""
    """When it was submitted, of a job of this machine (`attempts_of`)."""

    @property
    def attempts(self) -> Path:
        """The folder in which its attempts are noted."""
        return attempts_folder(self.call.run_dir, self.log.parent, self.job)

    def ended_well(self, state: str) -> bool:
        """Whether it has done its work.

        Args:
            state: in which it ended; of a job that Slurm has forgotten, what it noted itself tells.
        """
        if state != FORGOTTEN:
            return state == "COMPLETED"
        attempts = attempts_of(self.attempts, self.job)
        return bool(attempts) and attempts[-1].end is not None and attempts[-1].end.status == DONE


def check_chain(chain: Sequence[Link], *, slurm: bool) -> None:
    """Refuse a chain of which some job would not start.

    Args:
        chain: in order.
        slurm: hold it against the partitions that there are.

    Raises:
        SubmitError, ConfigError: what is wrong.
    """
    groups = partitions.partitions() if slurm else []
    run_dirs = [call.run_dir for link in chain for call in link.calls if call.run_dir is not None]
    for run_dir in run_dirs:
        check_free_here(run_dir)
    if slurm:
        _check_queue(run_dirs)
    elif has_slurm():
        with contextlib.suppress(SlurmError):  # which is not needed here
            _check_queue(run_dirs)
    folders: set[Path] = set()
    made: list[Path] = []
    for link in chain:
        for call in link.calls:
            if call.run_dir is not None and call.run_dir.absolute() in folders:
                raise SubmitError(f"two jobs would have the run folder {call.run_dir}; give one another --run-dir")
            folders |= {call.run_dir.absolute()} if call.run_dir else set()
        if slurm:
            partitions.check(link.resources, groups)
        for_each(link.calls, lambda call, asked=link.resources: check_division(call, asked))
        made += check_all(link.calls, link.resources.rank_counts(), made)


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
        SubmitError: Slurm refuses a job; those before it are taken back, as after Ctrl-C.
    """
    code.make()
    done: list[Submitted] = []
    before: str | None = None
    for link in chain:
        try:
            with outside_of_jobs():
                new = _submit_link(link, folder, code, None if before is None else f"afterok:{before}")
            done += new
            for one in new:
                note(one, name=job_name(link))
        except (subprocess.SubprocessError, RuntimeError, OSError) as error:  # submitit's are RuntimeErrors
            raise SubmitError(f"{link.calls[0].name}: {_words(error)}; {_taken_back(done)}") from error
        except KeyboardInterrupt:
            left = f"{_taken_back(done)}, but for what squeue --me may show"
            print(f"{link.calls[0].name}: interrupted; {left}", file=sys.stderr)
            raise
        before = new[0].job.split("_")[0]
    return done


def _words(error: Exception) -> str:
    """Those of sbatch, where submitit has kept them."""
    is_sbatch = isinstance(error, RuntimeError) and isinstance(error.__cause__, subprocess.CalledProcessError)
    return said("sbatch", str(error)) if is_sbatch else " ".join(str(error).split())


def note(submitted: Submitted, *, name: str, process: int | None = None) -> None:
    """Write down which job was submitted, in the folder in which its attempts will be noted.

    Args:
        submitted: the job.
        name, process: as those of `note_job`.
    """
    command = shlex.join(submitted.call.program(Path()))
    note_job(
        submitted.attempts,
        submitted.job,
        command=command,
        log=submitted.log,
        name=name,
        process=process,
        since=submitted.since or None,
    )


def job_name(link: Link) -> str:
    """What Slurm calls the jobs of a link."""
    name = link.calls[0].name if len(link.calls) == 1 else link.calls[0].script
    return "_".join(name.replace("|", "_").split())


def task(call: ScriptCall, link: Link, folder: Path, code: Path) -> JobTask:
    """What submitit calls in each task of a job."""
    record = None if call.run_dir is None else call.run_dir.absolute()
    command = Command(call.program(code), Path.cwd(), call.trains, record)
    asked = link.resources
    return JobTask(command, folder=folder, grace=asked.grace, limits=link.limits, time=60.0 * asked.minutes)


def _taken_back(done: Sequence[Submitted]) -> str:
    """Cancel jobs; what is left of them, in words."""
    left = []
    for job in dict.fromkeys(one.job.split("_")[0] for one in done):
        try:
            ask("scancel", job)
        except SlurmError:
            left.append(job)
    return f"still queued, cancel them: scancel {' '.join(left)}" if left else "nothing is queued"


def check_free_here(folder: Path) -> None:
    """Refuse a run folder that has a job of this machine already, also one that has yet to take its lock.

    Raises:
        SubmitError: naming it.
    """
    live = live_local_job(folder)
    if live is not None and live.process is not None:
        raise SubmitError(
            f"run folder {folder}: job {live.job} of this machine runs for it: kill {live.process.pid} first (it "
            "saves), or choose another --run-dir"
        )


def _check_queue(folders: Sequence[Path]) -> None:
    """Refuse a run folder that has a job in Slurm's queue, which waits or runs.

    Raises:
        SubmitError: naming it.
    """
    noted = {folder: noted_jobs(folder) for folder in folders}
    there = whoever({one.job for several in noted.values() for one in several if not one.is_local})
    for folder, several in noted.items():
        for job, found in among(several, there).items():
            raise SubmitError(
                f"run folder {folder}: job {job} is {found.state} for it: scancel {job} first, or choose another "
                "--run-dir"
            )


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
        executor = submitit.SlurmExecutor(folder=folder, python=f"sh -c {DEAF} {shlex.quote(sys.executable)}")
    except RuntimeError:
        raise NoSlurm(f"there is no srun here; {WITHOUT}") from None
    parameters = link.resources.parameters(job_name(link), code.path, dependency)
    executor.update_parameters(**parameters, array_parallelism=link.at_a_time)
    return executor


def _script(link: Link, folder: Path, code: Code, dependency: str | None) -> str:
    executor = _executor(link, folder, code, dependency)
    if len(link.calls) > 1:
        executor.parameters["map_count"] = len(link.calls)
    return executor._make_submission_file_text(executor._submitit_command_str, "")
