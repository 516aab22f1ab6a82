"""Injuries: what is done to a run, and when.

In: a seeded draw and where the run stands. Out: an `Injury`, and its infliction upon a start. Moments are steps and
folders that are seen rather than seconds, so that injuries spread over the run and nearly every start makes progress;
only what lies inside a moment is a matter of chance in time.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from random import Random

from benchmarks.chaos_lanes import Times
from benchmarks.chaos_ranks import LOOK, Ranks

KILL_ALL, KILL_ONE, SIGTERM, SIGUSR2, STOP_FILE = "SIGKILL to all", "SIGKILL to one", "SIGTERM", "SIGUSR2", "stop file"
HOW = {KILL_ALL: 4, KILL_ONE: 2, SIGTERM: 1, SIGUSR2: 1, STOP_FILE: 1}
"""What is done, and how often in relation to the others. Signals go to one rank."""

START_UP, STEP, REFRESH, SAVE, EXPORT = "start-up", "step", "refresh", "save", "export"
WHEN = {START_UP: 1, STEP: 3, REFRESH: 3, SAVE: 3, EXPORT: 1}
"""What is waited for, and how often in relation to the others, among those that can be; the export ends the run, which
may be anywhere."""

REACH = 10
"""Steps from a start to its injury, at most, if it is not in the export."""

ROOM = 4
"""Steps before the end of training after which nobody is asked to stop: the answer may be that all is done."""

LENGTHS = {STEP: 0.05, REFRESH: 0.03, SAVE: 0.04, EXPORT: 0.08}
"""Seconds that each moment takes at least, as a run of this size on one idle core has shown."""


@dataclass(frozen=True)
class Injury:
    """What is to be done to one start."""

    how: str
    when: str
    step: int
    """The step that is waited for, or after which a save or the export is."""
    rank: int
    """Whom a signal to one rank hits."""
    share: float
    """Of the moment's length that passes before the injury."""

    @property
    def kills(self) -> bool:
        """Whether the run gets no time to save."""
        return self.how in (KILL_ALL, KILL_ONE)


def draw_injury(draw: Random, times: Times, start: int, ranks: int) -> Injury | None:
    """An injury to a run that starts at a step; None to let it end, which a run that has only its end before it gets in
    half of all cases, lest it be killed there for ever."""
    if start >= times.total and draw.random() < 0.5:
        return None
    how = weighted(draw, {name: weight for name, weight in HOW.items() if can_be(name, times, start, ranks)})
    kills = how in (KILL_ALL, KILL_ONE)
    refreshes = [step for step in times.refreshes if start < step <= start + REACH and step < times.total]
    possible = {START_UP: kills or how == STOP_FILE, STEP: start < times.total - 1}
    possible |= {REFRESH: kills and bool(refreshes), SAVE: kills and start < times.total, EXPORT: kills}
    when = weighted(draw, {name: weight for name, weight in WHEN.items() if possible[name]})
    last = min(start + REACH, times.total - (1 if kills else ROOM))
    step = draw.choice(refreshes) if when == REFRESH else draw.randint(min(start + 1, last), last)
    return Injury(how, when, step, draw.randrange(ranks), draw.random())


def can_be(how: str, times: Times, start: int, ranks: int) -> bool:
    """Whether something can be done to a run of so many ranks that starts at a step."""
    if how == KILL_ONE:
        return ranks > 1
    return how == KILL_ALL or start < times.total - ROOM


def weighted(draw: Random, weights: dict[str, int]) -> str:
    """One of the names."""
    return draw.choices(list(weights), list(weights.values()))[0]


def wait_for(ranks: Ranks, injury: Injury, start_up: float, patience: float) -> bool:
    """Whether the moment of an injury came while all ranks were there.

    Args:
        start_up: seconds that a start takes before it trains, about.
        patience: seconds from the start after which waiting is given up.
    """
    while not is_moment(ranks, injury, start_up):
        if not ranks.all_there() or time.monotonic() - ranks.since > patience:
            return False
        time.sleep(LOOK)
    time.sleep(injury.share * LENGTHS.get(injury.when, 0.0))
    return ranks.all_there()


def is_moment(ranks: Ranks, injury: Injury, start_up: float) -> bool:
    """Whether now is the time."""
    if injury.when == START_UP:  # a share near 1 falls into the first steps now and then
        late_enough = time.monotonic() - ranks.since > start_up * (0.4 + 0.7 * injury.share)
        return late_enough and (injury.how != STOP_FILE or ranks.folder.path.is_dir())
    if injury.when == SAVE:
        return ranks.is_saving() and ranks.reached() >= injury.step - 1
    if injury.when == EXPORT:
        return ranks.is_exporting()
    return ranks.reached() >= (injury.step - 1 if injury.when == REFRESH else injury.step)


def inflict(ranks: Ranks, injury: Injury) -> None:
    """Do it."""
    victim = ranks.processes[injury.rank].pid
    if injury.how == KILL_ALL:
        ranks.kill()
    elif injury.how == KILL_ONE:
        os.kill(victim, signal.SIGKILL)
    elif injury.how == STOP_FILE:
        ranks.folder.stop.touch()
    else:
        os.kill(victim, signal.Signals[injury.how])
