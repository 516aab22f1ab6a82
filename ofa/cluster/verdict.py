"""What becomes of a job when its run has ended: done, back into the queue, or failed.

A run that crashes again and again without getting further is stopped, since the next start would crash too. What Slurm
ends and queues again by itself (a lost node, preemption without grace) leaves an attempt without an end, which says
little of the run: of these many more may follow each other. And no job is queued for ever.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ofa.cluster.attempts import Attempt, End

DONE, USAGE, STOPPED_AND_SAVED, INTERRUPTED = 0, 2, 75, 130
"""Exit statuses of the scripts."""

SAVED = "stopped and saved"
UNSAVED = "stopped before it could save"
UNABLE = "failed when it was to save"
CRASHED = "crashed"
KILLED = "killed"
LOST = "lost a rank"
TOO_LONG = "out of time"

COUNTED = (UNABLE, CRASHED, TOO_LONG)
"""Ends after which the next start may come to the same one."""

BY_SLURM = (KILLED, LOST)
"""Those that say nothing of the run."""

UNHEARD = (-signal.SIGUSR2, -signal.SIGTERM, -signal.SIGINT, INTERRUPTED)
"""Statuses of what had not begun to listen, or never does, when it was asked to save; and of what was asked again."""


@dataclass(frozen=True)
class Limits:
    """How often a job is started again."""

    requeues: int = 100
    """In all."""

    crashes: int = 2
    """In a row, without a step that was saved between them."""

    kills: int = 20
    """The same of ends that Slurm caused: a run on a busy partition may be preempted often before it first saves, and
    what is no run, such as a sweep, never does."""


@dataclass(frozen=True)
class Ended:
    """How the process of rank 0 has ended."""

    status: int
    asked: str | None = None
    """The signal by which Slurm, or a user through Slurm, asked to save; None: nobody did."""

    by_file: bool = False
    """A user asked for it by the stop file."""

    at_limit: bool = False
    """It was asked when `--time` was nearly over, and so would the next start be."""

    in_time: bool = True
    """False: it had not saved when the time was nearly up."""

    saves: bool = True
    """Whether it is a script that saves when it is asked to."""

    lost: bool = False
    """Another rank went without a word, as with its node."""

    error: str | None = None
    """Its last error line."""


@dataclass(frozen=True)
class Verdict:
    """What to do, and why."""

    reason: str
    requeue: bool = False
    error: str | None = None
    """Also why the job is not queued again, if it is not."""


def judge(ended: Ended, attempts: Sequence[Attempt], step: int, limits: Limits) -> Verdict:
    """What becomes of the job.

    Args:
        ended: the process.
        attempts: of this job, the one that has just ended last.
        step: that the last checkpoint holds now.
        limits: of restarts.
    """
    if ended.status == DONE:
        return Verdict("done")
    if ended.status == STOPPED_AND_SAVED and ended.by_file:
        return Verdict(SAVED)
    reason = _reason(ended, gained=step > attempts[-1].step)
    if reason == SAVED:
        return _again(Verdict(SAVED, requeue=True), attempts, limits)
    if reason == TOO_LONG:
        ended = replace(ended, error="neither done nor a step saved by the time limit: choose a longer --time")
    if ended.status == USAGE and reason == CRASHED:
        return Verdict(CRASHED, error=ended.error)
    now = replace(attempts[-1], end=End("", ended.status, step, reason, ended.error))
    crashes, kills = in_a_row([*attempts[:-1], now], step_now=step)
    if reason in COUNTED and crashes > limits.crashes:
        return Verdict(reason, error=f"{ended.error} ({_times(crashes, step, '--max-crashes')})")
    if reason in BY_SLURM and kills > limits.kills:
        return Verdict(reason, error=f"{ended.error} ({_times(kills, step, '--max-kills')})")
    return _again(Verdict(reason, requeue=True, error=ended.error), attempts, limits)


def _reason(ended: Ended, *, gained: bool) -> str:
    """In words, of one that has not done its work.

    Args:
        ended: the process.
        gained: it has saved a step.
    """
    if ended.status == STOPPED_AND_SAVED:  # what saves no steps, as a sweep does, may yet have got further
        return TOO_LONG if ended.at_limit and ended.saves and not gained else SAVED
    if ended.lost:
        return LOST
    if ended.asked is None or not ended.in_time:
        return CRASHED
    if ended.status in UNHEARD:
        return TOO_LONG if ended.at_limit and not gained else UNSAVED
    if ended.status < 0:
        return CRASHED
    # It has tried, and a full disk stays full.
    return UNABLE if ended.saves else UNSAVED


def refusal(attempts: Sequence[Attempt], step: int, limits: Limits) -> str | None:
    """Why a job that Slurm has queued again by itself is not to go on; None: it is.

    Args:
        attempts: of this job, those before.
        step: that the last checkpoint holds.
        limits: of restarts.
    """
    crashes, kills = in_a_row(attempts, step_now=step)
    if crashes > limits.crashes:
        return f"crashed {_times(crashes, step, '--max-crashes')}"
    if kills > limits.kills:
        return f"killed {_times(kills, step, '--max-kills')}"
    if len(attempts) > limits.requeues:
        return f"it was queued again {len(attempts)} times, more than {limits.requeues} (--max-requeues)"
    return None


def in_a_row(attempts: Sequence[Attempt], *, step_now: int) -> tuple[int, int]:
    """Crashes since a step was last saved, and ends since then that Slurm caused.

    Args:
        attempts: of one job, all ended.
        step_now: that the last checkpoint holds after them.
    """
    crashes = kills = 0
    for number, attempt in enumerate(attempts):
        after = attempts[number + 1].step if number + 1 < len(attempts) else step_now
        if max(after, attempt.end.step if attempt.end else 0) > attempt.step:
            crashes = kills = 0
        elif attempt.end is None or attempt.end.reason in BY_SLURM:
            kills += 1
        elif attempt.end.reason in COUNTED:
            crashes += 1
    return crashes, kills


def _again(verdict: Verdict, attempts: Sequence[Attempt], limits: Limits) -> Verdict:
    if len(attempts) <= limits.requeues:
        return verdict
    why = f"not queued again: it was {limits.requeues} times (--max-requeues); start the same command again to go on"
    return Verdict(verdict.reason, error=f"{verdict.error}; {why}" if verdict.error else why)


def _times(count: int, step: int, option: str) -> str:
    return f"{count} times in a row at step {step}, with no step saved between ({option})"
