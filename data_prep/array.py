"""The work of a pool done by jobs of a cluster: an array of Slurm through submitit, or submitit's local processes.

Every call of a step leaves a file that says it is done, on a disk that all nodes share; so a job does its calls, and
the main process reads what they have left. Calls that are done already are not submitted, and a job that was preempted
goes back into the queue and does the rest. What is written is what the pool of processes writes, byte for byte.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.documents import DataPrepError
from data_prep.done import is_done
from data_prep.jobs import NOTE, Jobs, largest_array, note
from data_prep.workers import OF_A_TERMINAL, ResultT, stops_wait
from ofa.config import CHECKOUT
from ofa.slurm.commands import WITHOUT, NoSlurm, SlurmError, said
from ofa.slurm.environment import outside_of_jobs, python_path
from ofa.slurm.options import option
from ofa.slurm.snapshot import Code, snapshot

_SLICES = 4
"""Jobs for each that runs at a time, so that a slow one holds up less."""

_BETWEEN_LOOKS = 0.2
"""Seconds from one look at a process of this machine to the next."""

_BETWEEN_QUESTIONS = 10.0
"""Seconds from one look at Slurm's queue to the next."""

_UNTIL_SEEN = 30.0
"""Seconds that a file may take from a node to this machine, after its job has left the queue."""


@dataclass(frozen=True)
class ClusterOptions:
    """What is asked of the cluster."""

    cluster: str = "slurm"
    """`slurm`, or `local`: processes of this machine."""

    minutes: int = 240
    """Limit of one job."""

    memory_gb: float = 4.0
    partition: str | None = None
    other: tuple[str, ...] = ()
    """Further `KEY=VALUE` of sbatch."""

    uncommitted: bool = False
    """Jobs of Slurm run the checkout's files as they are now, and not those of its commit."""


class ClusterArray:
    """As `data_prep.workers.Workers`: `with ClusterArray(...) as pool: for result in pool.map(function, calls): ...`"""

    def __init__(self, at_a_time: int, folder: Path, options: ClusterOptions):
        """
        Args:
            at_a_time: Jobs that run side by side.
            folder: For submitit's files; on the shared disk.
            options: What is asked.

        Raises:
            SubmitError: Files differ from the commit, or what is asked is no option of sbatch.
        """
        self._at_a_time, self._folder, self._options = at_a_time, folder, options
        self._more = dict(map(option, options.other))
        self._jobs: Jobs | None = None
        self._code = Code(CHECKOUT, None)  # other than on Slurm, no job waits while work goes on in it
        if options.cluster == "slurm":
            self._code = snapshot(CHECKOUT, folder.absolute() / "code", uncommitted=options.uncommitted)

    def __enter__(self) -> ClusterArray:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and self._jobs is not None:
            self._jobs.tell_to_end()  # what is at work still, the next run waits for

    def map(self, function: Callable[..., ResultT], arguments: Iterable[tuple[Any, ...]]) -> Iterator[ResultT]:
        """Call `function` with each tuple of arguments, in jobs; results come in order, as they are there.

        Raises:
            SlurmError: Slurm refuses the jobs, in its words, or does not answer.
            DataPrepError: One failed, in the words of its error and with its log, or is gone.
        """
        calls = list(arguments)
        missing = [call for call in calls if not is_done(function, call)]
        each = _SLICES if self._options.cluster == "slurm" else 1  # without a queue all of them start at once
        number = min(len(missing), each * self._at_a_time)
        if number and self._options.cluster == "slurm":
            number = min(number, largest_array())
        at_work = self._do([(function, missing[start::number]) for start in range(number)]) if number else iter(())
        for call in calls:
            while not is_done(function, call) and next(at_work, False):
                pass
            yield function(*call)
        for _ in at_work:
            pass

    def _do(self, slices: list[tuple[Any, list[tuple[Any, ...]]]]) -> Iterator[bool]:
        """Submit the jobs; gives True at each look at them, as long as some are at work."""
        executor = self._executor()
        try:
            # Local jobs are of the same terminal: this process stops them.
            with outside_of_jobs(**self._variables()), stops_wait(OF_A_TERMINAL):
                jobs = executor.map_array(_Slice(), [one for one, _ in slices], [calls for _, calls in slices])
        except RuntimeError as error:  # submitit's, for whatever sbatch says
            self._forget()
            raise SlurmError(f"the jobs were not submitted: {said('sbatch', str(error))}") from None
        return self._until_ended(jobs)

    def _until_ended(self, jobs: list[Any]) -> Iterator[bool]:
        if self._options.cluster == "slurm":
            yield from self._until_left(jobs)
        for job in jobs:
            while not job.done():
                yield True
                time.sleep(_BETWEEN_LOOKS)
            _check(job)
        self._forget()

    def _until_left(self, jobs: list[Any]) -> Iterator[bool]:
        """Until every job of Slurm has left a result. The queue tells of those that never will: there may be no
        accounting, which is all that submitit asks."""
        assert self._jobs is not None
        waiting = {job.job_id: job for job in jobs}
        asked, gone = time.monotonic(), {}
        while waiting:
            there = {entry.name for entry in os.scandir(self._folder)}  # read anew, also from a disk far away
            for number in [number for number, job in waiting.items() if job.paths.result_pickle.name in there]:
                _check(waiting.pop(number))
            now = time.monotonic()
            if now - asked >= _BETWEEN_QUESTIONS:
                asked = now
                with contextlib.suppress(SlurmError):  # a controller that is started anew; results come without it
                    queued = self._jobs.at_work()
                    gone = {number: gone.get(number, now) for number in waiting if number not in queued}
            for number, since in gone.items():
                if number in waiting and now - since >= _UNTIL_SEEN:
                    raise DataPrepError(_words_of_lost(waiting[number]))
            yield True
            time.sleep(1)

    def _forget(self) -> None:
        self._jobs = None
        (self._folder / NOTE).unlink(missing_ok=True)

    def _variables(self) -> dict[str, str]:
        """Of a job; without the second it would import what lies in the working directory, such as the checkout."""
        return {"PYTHONPATH": python_path(self._code.path), "PYTHONSAFEPATH": "1"}

    def _executor(self) -> Any:
        import submitit  # takes a second, and no other run needs it

        self._code.make()
        options, more = self._options, dict(self._more)
        try:
            executor = submitit.AutoExecutor(folder=self._folder, cluster=options.cluster)
        except RuntimeError as error:
            raise NoSlurm(f"{error}; {WITHOUT}") from None
        self._jobs = note(self._folder, options.cluster, str(more.pop("job-name", "data_prep")))
        executor.update_parameters(name=self._jobs.name, timeout_min=options.minutes)
        if options.cluster == "slurm":
            executor.update_parameters(
                cpus_per_task=1,
                mem_gb=options.memory_gb,
                slurm_array_parallelism=self._at_a_time,
                slurm_setup=[f"export {name}={shlex.quote(value)}" for name, value in self._variables().items()],
                slurm_additional_parameters=more,
                **({"slurm_partition": options.partition} if options.partition else {}),
            )
        return executor


class _Slice:
    """What a job does; preempted, it is queued again and does what is left."""

    def __call__(self, function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> int:
        os.environ["RAYON_NUM_THREADS"] = "1"
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        for call in calls:
            function(*call)
        return len(calls)

    def checkpoint(self, *arguments: Any) -> Any:
        """As submitit asks for it."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)


def _check(job: Any) -> None:
    """Raise DataPrepError unless a job has ended well."""
    try:
        job.result()
    except Exception as error:  # submitit wraps whatever it was
        raise DataPrepError(_words(error, job)) from None


def _words_of_lost(job: Any) -> str:
    log = job.paths.stderr
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    return (
        f"job {job.job_id} is no longer in Slurm's queue and has left no result: cancelled, out of time or memory, or "
        f"its node was lost; its last words: {last} (log {log}); run again: finished parts are kept"
    )


def _words(error: Exception, job: Any) -> str:
    """The last error that a job has written, and where its log is."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(?:Error|DiskFull)\b", line)]
    said = (named or lines or ["no reason given"])[-1].removeprefix("data_prep.documents.DataPrepError: ")
    return f"{said} (job {job.job_id}, log {job.paths.stderr}); run again: finished parts are kept"
