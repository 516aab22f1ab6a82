"""A chain of jobs without Slurm, to try one: submitit's `local` (processes of this machine) and `debug` (in here).

There is no queue to go back to: a run that was stopped, or has crashed, ends its job.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import submitit

from ofa.cluster.attempts import End, attempts_of, now
from ofa.cluster.errors import StepFailed, StillAtWork
from ofa.cluster.follow import BETWEEN_LOOKS, Follower
from ofa.cluster.jobs_file import submitting
from ofa.cluster.local_executor import LocalExecutor
from ofa.cluster.resources import Resources
from ofa.cluster.shares import at_place, cores_at, cores_of, free_place, visible_gpus
from ofa.cluster.submit import Link, Submitted, check_free_here, job_name, note, task
from ofa.cluster.tails import last_words
from ofa.cluster.verdict import DONE, SAVED, STOPPED_AND_SAVED
from ofa.config import CHECKOUT
from ofa.slurm.environment import python_path
from ofa.slurm.errors import SubmitError

NO_WORDS = re.compile(r"exit status \d+")
"""Of an attempt's end of which no more is on record."""

OF_SLURM = ("partition", "account", "qos", "constraint", "exclude")
"""Of `Resources`: what only Slurm knows, and a run of this machine may do without."""


def check_here(chain: Sequence[Link], cluster: str) -> None:
    """Refuse what needs more than this machine, or its own shell.

    Raises:
        SubmitError: a link asks for several nodes, for processes where there is one, for more GPUs than there are, or
            for commands of the shell.
    """
    if cluster == "debug" and any(link.resources.processes > 1 for link in chain):
        raise SubmitError("--cluster debug has one process, this one; --cluster local has as many as are asked for")
    if any(link.resources.nodes != (1, 1) for link in chain):
        raise SubmitError(f"--cluster {cluster} has one node, this one")
    most = max(link.resources.gpus_per_node for link in chain)
    if most and most > len(visible_gpus()):
        raise SubmitError(
            f"--gpus-per-node {most}: this machine has {len(visible_gpus())} GPUs, as far as CUDA_VISIBLE_DEVICES lets "
            "them be seen; ask for no more, or for --tasks-per-node processes on its cores"
        )
    if any(link.resources.setup for link in chain):
        raise SubmitError(
            f"--cluster {cluster} runs in the environment of this shell: give the commands of --setup here before it, "
            "and leave that out"
        )


def meaningless_here(chain: Sequence[Link]) -> list[str]:
    """Options of Slurm alone that were given, and change nothing here, as they are typed."""
    found: list[str] = []
    for asked in (link.resources for link in chain):
        values = {name: getattr(asked, name) for name in OF_SLURM} | {"mem": asked.mem_gb}
        found += [f"--{name.replace('_', '-')}" for name, value in values.items() if value is not None]
        found += ["--sbatch"] if asked.other else []
    return list(dict.fromkeys(found))


def run_here(
    chain: Sequence[Link], cluster: str, folder: Path, *, watch: bool, begun: Callable[[Submitted], None]
) -> list[Submitted]:
    """Do a chain, each link after the success of the one before; the last is left to run by itself.

    Args:
        chain: in order.
        cluster: `local` or `debug`.
        folder: of submitit's files.
        watch: follow the logs, of the last link too.
        begun: told of each job as it is started.

    Returns:
        The jobs of the last link.

    Raises:
        StepFailed: a job failed, was stopped or could not be started; those of the links after it are not begun.
        StillAtWork: Ctrl-C came.
    """
    last: list[Submitted] = []
    for step, link in enumerate(chain):
        started: list[tuple[Submitted, submitit.Job[int]]] = []
        places: list[int] = []
        followers: list[Follower] = []
        side_by_side = min(link.at_a_time, len(link.calls))
        try:
            for call in link.calls:
                while sum(not job.done() for _, job in started) >= link.at_a_time:
                    _pause(followers)
                _look(followers)  # for the last words of what has made room
                taken = {place for place, (_, job) in zip(places, started, strict=True) if not job.done()}
                place = free_place(taken)
                one = replace(link, calls=(call,))
                started += start_here(one, cluster, folder, place=place, places=side_by_side)
                places.append(place)
                begun(started[-1][0])
                if watch and cluster == "local":
                    followers.append(_follower(*started[-1], is_alone=len(link.calls) == 1))
            last = [one for one, _ in started]
            if link is not chain[-1] or watch or cluster == "debug":
                _wait_for_all(started, step, followers)
        except SubmitError as error:
            raise error if isinstance(error, StepFailed) else StepFailed(str(error), step, 1) from None
        except KeyboardInterrupt:
            at_work = [one for one, job in started if cluster == "local" and not job.done()]
            raise StillAtWork(step, at_work, len(link.calls) - len(started)) from None
    return last


def start_here(
    link: Link, cluster: str, folder: Path, *, place: int = 0, places: int = 1
) -> list[tuple[Submitted, submitit.Job[int]]]:
    """Start the jobs of a link.

    Args:
        link, cluster, folder: as those of `run_here`.
        place: among what runs side by side, by which a local job has its GPUs.
        places: how many there are, between which cores are shared out.

    Raises:
        SubmitError: a run folder has a job of this machine.
    """
    os.environ["PYTHONPATH"] = python_path()
    os.environ.pop("SUBMITIT_PREEMPT_SIGNAL", None)  # a run listens to submitit's own choice
    share = _variables(link.resources, place, places), _cores(link.resources, place, places)
    executor = LocalExecutor(folder, *share) if cluster == "local" else submitit.DebugExecutor(folder)
    executor.update_parameters(
        tasks_per_node=link.resources.processes,
        gpus_per_node=link.resources.gpus_per_node,
        timeout_min=link.resources.minutes,
        signal_delay_s=link.resources.grace,
        stderr_to_stdout=True,
    )
    started = []
    for call in link.calls:
        with contextlib.nullcontext() if call.run_dir is None else submitting(call.run_dir):
            if call.run_dir is not None:
                check_free_here(call.run_dir)  # again: another one may have come since the chain was checked
            with _ctrl_c_waits():
                since = now()
                job = executor.submit(task(call, link, folder, CHECKOUT))
                started.append((Submitted(job.job_id, call, folder / f"{job.job_id}_0_log.out", since), job))
                process = int(job.job_id) if cluster == "local" else os.getpid()
                note(started[-1][0], name=job_name(link), process=process)
    return started


def _variables(asked: Resources, place: int, places: int) -> dict[str, str]:
    """Those by which a job keeps to its GPUs, none where it asked for none, and has as many threads as cores."""
    gpus = at_place(place, visible_gpus(), asked.gpus_per_node) if asked.gpus_per_node else []
    own = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    threads = asked.cpus_per_task or (cores_of(places * asked.processes) if places > 1 else None)
    return own if threads is None else {**own, "OMP_NUM_THREADS": str(threads)}


def _cores(asked: Resources, place: int, places: int) -> set[int]:
    """Those of a job: its processes, of whose threads the variables say nothing, share out what they see."""
    each = asked.processes * asked.cpus_per_task if asked.cpus_per_task else cores_of(places)
    return cores_at(place, each)


@contextlib.contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Until a job that is started is noted: it would go on and nobody know of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


def _follower(submitted: Submitted, job: submitit.Job[int], *, is_alone: bool) -> Follower:
    """Of a job's log; each line says whose it is, unless it is alone."""
    label = "" if is_alone else submitted.call.name
    return Follower(submitted.job, submitted.log, lambda _: _state(submitted, job), every=0.0, label=label)


def _look(followers: Sequence[Follower]) -> None:
    for one in followers:
        one.look()


def _pause(followers: Sequence[Follower]) -> None:
    _look(followers)
    time.sleep(BETWEEN_LOOKS)


def _wait_for_all(
    started: Sequence[tuple[Submitted, submitit.Job[int]]], step: int, followers: Sequence[Follower]
) -> None:
    """Until all have ended, also where one has failed.

    Raises:
        StepFailed: one has not done its work; the words of all that have not.
    """
    failures: list[StepFailed] = []
    for one, job in started:
        try:
            _wait(one, job, step, followers)
        except StepFailed as failed:
            failures.append(failed)
    if len(failures) > 1:
        first = failures[0]
        raise StepFailed("; ".join(map(str, failures)), step, first.status, was_said=first.was_said)
    if failures:
        raise failures[0]


def _wait(submitted: Submitted, job: submitit.Job[int], step: int, followers: Sequence[Follower]) -> None:
    """Until a job has ended.

    Raises:
        StepFailed: it has not done its work.
    """
    name = submitted.call.name
    if isinstance(job, submitit.DebugJob):
        try:
            job.results()
        except SystemExit as end:  # it has said why
            status = end.code if isinstance(end.code, int) else 1
            raise StepFailed(f"{name} ended with status {status}", step, status, was_said=True) from None
        return
    while not job.done():
        _pause(followers)
    _look(followers)
    end = _end(submitted)
    if end is None:  # killed, or it could not begin
        error, last = last_words(submitted.log)
        if error is None:
            raise StepFailed(f"{name} was killed: {submitted.log}, which ends with: {last or 'nothing'}", step, 1)
        raise StepFailed(f"{name} failed: {submitted.log}: {error}", step, 1)
    if end.status == STOPPED_AND_SAVED:
        raise StepFailed(f"{name} was stopped, and has saved: {submitted.log}", step, end.status)
    if end.status != DONE:
        why = (end.error or end.reason).removeprefix("error: ")
        if NO_WORDS.fullmatch(why):  # its script has said what it found, and none of that is an error's line
            why = f"{why}; it ends with: {last_words(submitted.log)[1]}"
        raise StepFailed(f"{name} failed: {submitted.log}: {why}", step, 1)


def _state(submitted: Submitted, job: submitit.Job[int]) -> tuple[str, str]:
    """In Slurm's words, and why."""
    if not job.done():
        return "RUNNING", ""
    end = _end(submitted)
    if end is not None and end.status == DONE:
        return "COMPLETED", ""
    return "FAILED", SAVED if end is not None and end.status == STOPPED_AND_SAVED else ""


def _end(submitted: Submitted) -> End | None:
    """Of its last attempt, as far as that is on record."""
    attempts = attempts_of(submitted.attempts, submitted.job, submitted.since)
    return attempts[-1].end if attempts else None
