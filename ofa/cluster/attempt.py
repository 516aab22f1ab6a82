"""What submitit starts in every task of a job: one attempt of the run, and on rank 0 the decision about the next.

submitit's own handlers would have rank 0 alone queue the job again at once, while the ranks still agree on the step to
save; here every task passes the signal on to its process, and the job goes back into the queue when that has saved.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from ofa.cluster import requeue
from ofa.cluster.attempts import Attempt, attempts_folder, attempts_of, read_attempts, write_end, write_start
from ofa.cluster.child import Child, signal_name
from ofa.cluster.command import environment
from ofa.cluster.log import say
from ofa.cluster.other_ranks import first_end, patience, say_end
from ofa.cluster.place import Place, export, own_place
from ofa.cluster.resources import BEGAN, SLACK
from ofa.cluster.verdict import DONE, KILLED, SAVED, STOPPED_AND_SAVED, UNHEARD, Ended, Limits, Verdict, judge, refusal
from ofa.code_version import commit
from ofa.run_files import saved_step
from ofa.slurm.commands import SlurmError

SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
BETWEEN_LOOKS = 0.2
"""Seconds between two looks at the process."""

RESERVE = 15.0
"""Seconds before the end of the grace, or a quarter of it, that going back into the queue may take."""

OTHER_RANK = re.compile(r"\brank \d")
GONE = re.compile(r"\brank \d+ .*\bis gone\b")
"""Errors that name another rank, and those that know nothing else of it (`ofa.watch`)."""


@dataclass(frozen=True)
class Command:
    """What a task does."""

    program: tuple[str, ...]
    """Python's arguments."""

    cwd: Path
    trains: bool
    """Its processes are ranks that find each other."""

    record: Path | None
    """The run folder; None: it has none, and its attempts are noted beside its log."""


class JobTask:
    """The callable that is pickled with a job."""

    def __init__(self, command: Command, *, folder: Path, grace: float, limits: Limits, time: float | None = None):
        """
        Args:
            command: what to do.
            folder: of submitit's own files.
            grace: seconds between Slurm's signal and the end.
            limits: of restarts.
            time: seconds that Slurm gives an attempt; None: it sets no limit.
        """
        self._command = command
        self._folder = folder
        self._grace = grace
        self._limits = limits
        self._time = time

    def __call__(self) -> int:
        """Do one attempt; returns where it ended well, and ends this process where it did not."""
        watch = Signals()
        place = own_place()
        if self._command.trains:
            export(place)
        return self._lead(watch, place) if place.rank == 0 else self._follow_rank_0(watch, place)

    def _follow_rank_0(self, watch: Signals, place: Place) -> int:
        """Every other rank: what its end means is for rank 0 to say."""
        folder = attempts_folder(self._command.record, self._folder, place.job)
        earlier = [one for one in attempts_of(folder, place.job) if one.restart < place.restart]
        if refusal(earlier, saved_step(folder), self._limits) is not None:
            sys.exit(DONE)
        status, ended = self._work(watch, ())
        if ended.error is not None and status != STOPPED_AND_SAVED:
            say_end(place.rank, place.restart, ended.error)
        sys.stdout.flush()
        return status if status == DONE else sys.exit(DONE)

    def _lead(self, watch: Signals, place: Place) -> int:
        """Rank 0: note the attempt, and decide what becomes of the job."""
        folder = attempts_folder(self._command.record, self._folder, place.job)
        earlier = [one for one in attempts_of(folder, place.job) if one.restart < place.restart]
        step = saved_step(folder)
        refused = refusal(earlier, step, self._limits)
        if refused is not None:
            say(f"error: {refused}; its last error: {_last_error(folder)}")
            if earlier[-1].end is None:
                write_end(folder, earlier[-1].number, status=-signal.SIGKILL, step=step, reason=KILLED, error=refused)
            sys.exit(1)
        attempt = self._begin(folder, place, step)
        status, ended = self._work(watch, ("--resume", "auto") if self._must_resume(earlier) else ())
        ended = replace(self._with_others(ended, place, watch), at_limit=place.can_requeue and self._at_limit(watch))
        verdict = judge(ended, [*earlier, attempt], saved_step(folder), self._limits)
        was_said = place.cluster == "debug" and (ended.error or "").startswith("error:")  # in the same terminal
        self._end(folder, attempt.number, status, verdict, aloud=not was_said)
        if status == DONE:
            return DONE
        goes_on = verdict.requeue and place.can_requeue and self._requeue(
            folder, attempt.number, status, verdict, watch, place
        )
        sys.exit(DONE if goes_on else max(status, 1))

    def _begin(self, folder: Path, place: Place, step: int) -> Attempt:
        """Note and say that an attempt begins."""
        ranks = place.ranks if self._command.trains else 1
        values: dict[str, Any] = {"job": place.job, "restart": place.restart, "nodes": place.nodes, "ranks": ranks}
        values |= {"step": step, "commit": commit()}
        number = write_start(folder, **values)
        began = f"attempt {number} of {folder}, job {place.job}, {place.ranks} ranks on {', '.join(place.nodes)}"
        say(f"{began}, from step {step}" if step else began)
        missing = requeue.missing() if place.can_requeue else None
        if missing is not None:
            say(f"warning: {missing}")
        return Attempt(number, time="", **values)

    def _with_others(self, ended: Ended, place: Place, watch: Signals) -> Ended:
        """An end of whose reason another rank is, with that one's words; one that went without any was lost. They are
        waited for until this task is asked to end itself."""
        if ended.error is None or not OTHER_RANK.search(ended.error):
            return ended
        is_gone = GONE.search(ended.error) is not None
        until = time.monotonic() + (patience(len(place.nodes)) if is_gone else 0.0)
        while True:
            other = first_end(self._folder, place.job, place.ranks, place.restart)
            if other is not None:
                return replace(ended, error=f"{ended.error}; {other}")
            if watch.asked is not None or time.monotonic() >= until:
                return replace(ended, lost=is_gone)
            time.sleep(BETWEEN_LOOKS)

    def _end(self, folder: Path, number: int, status: int, verdict: Verdict, *, aloud: bool = True) -> None:
        """Note and say how an attempt has ended; what is noted last holds."""
        step = saved_step(folder)
        write_end(folder, number, status=status, step=step, reason=verdict.reason, error=verdict.error)
        if verdict.error is not None and aloud:
            say(f"{verdict.reason}: {verdict.error}")

    def _work(self, watch: Signals, more: Sequence[str]) -> tuple[int, Ended]:
        """Run the process to its end, or until the time is nearly up."""
        command = self._command
        program = (*command.program, *more)
        child = Child([sys.executable, *program], cwd=command.cwd, environment=environment(program))
        watch.pass_on_to(child)
        stop = None if command.record is None else command.record / "stop"
        by_file = False
        while (status := child.poll()) is None:
            by_file = by_file or (stop is not None and stop.exists())
            if watch.asked_at is not None and time.monotonic() > watch.asked_at + self._enough():
                child.send(signal.SIGKILL)
                error = f"not saved within {self._enough():.0f} s of {watch.asked}: choose a longer --grace"
                return -signal.SIGKILL, Ended(-signal.SIGKILL, watch.asked, in_time=False, error=error)
            time.sleep(BETWEEN_LOOKS)
        if status in UNHEARD and child.has_said(SAVED):  # it was asked again on its way out
            status = STOPPED_AND_SAVED
        error = None if status == DONE else child.error(status)
        return status, Ended(status, watch.asked, by_file, saves=command.trains, error=error)

    def _at_limit(self, watch: Signals) -> bool:
        """Whether the signal came when Slurm sends it because of the job's own limit."""
        if watch.asked_at is None or self._time is None or BEGAN not in os.environ:
            return False
        asked = time.time() - (time.monotonic() - watch.asked_at)
        return asked - float(os.environ[BEGAN]) >= self._time - self._grace - SLACK

    def _requeue(
        self, folder: Path, number: int, status: int, verdict: Verdict, watch: Signals, place: Place
    ) -> bool:
        """Put the job back into the queue, in what is left of the time to save; False: it is not, and that is noted."""
        until = time.monotonic() + requeue.PATIENCE if watch.asked_at is None else watch.asked_at + self._grace
        try:
            queued = requeue.requeue(place.job, until, verdict.reason)
        except SlurmError as error:
            why = f"job {place.job} cannot be queued again: {error}"
            self._end(folder, number, status, replace(verdict, error="; ".join(filter(None, [verdict.error, why]))))
            return False
        if not queued:
            say(f"{verdict.reason}; job {place.job} was taken back")
        return queued

    def _enough(self) -> float:
        """Seconds after the signal in which the run has to save."""
        return self._grace - min(RESERVE, self._grace / 4)

    def _must_resume(self, earlier: Sequence[Attempt]) -> bool:
        """Whether this attempt is to continue what `--resume never` has made sure was a new run: of this job, and not
        one that was there before and that the first attempt has refused."""
        program = self._command.program
        never = "--resume=never" in program or ("--resume", "never") in zip(program, program[1:], strict=False)
        return never and bool(earlier) and earlier[0].step == 0


class Signals:
    """Those that ask to save; replaces submitit's handlers in this process."""

    def __init__(self):
        self.asked: str | None = None
        """The first that came."""
        self.asked_at: float | None = None
        """When, in seconds of a clock that never goes back."""
        self._child: Child | None = None
        for number in SIGNALS:
            signal.signal(number, self._receive)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)

    def pass_on_to(self, child: Child) -> None:
        """Give a process what comes, and what came before it was there."""
        self._child = child
        if self.asked is not None:
            child.send(signal.Signals[self.asked])

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked, self.asked_at = signal_name(number), time.monotonic()
        if self._child is not None:
            self._child.send(number)


def _last_error(folder: Path) -> str:
    errors = [attempt.end.error for attempt in read_attempts(folder) if attempt.end and attempt.end.error]
    return errors[-1] if errors else "none was written, it was killed"
