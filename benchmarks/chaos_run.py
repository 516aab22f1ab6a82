"""One run under chaos: started, hurt, looked at, and started again until it has finished.

In: a project, a lane, how many injuries are left, a seed. Out: what happened at each start, and what was wrong. Every
start draws from a seed of its own, so what is done does not depend on how long anything took; where it hits does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from benchmarks.chaos_checks import folder_problems, step_in_force
from benchmarks.chaos_injuries import EXPORT, REFRESH, SAVE, START_UP, Injury, draw_injury, inflict, wait_for
from benchmarks.chaos_lanes import Lane, Start, Times, arguments, draw_start
from benchmarks.chaos_ranks import Ranks, last_step
from ofa.run_folder import RunFolder

RAMP, AFTER_THE_RAMP = "ramp", "after the ramp"

DONE, STOPPED_AND_SAVED = 0, 75

PATIENCE = 240.0
"""Seconds that one start gets for whatever it does."""

ANSWER = 60.0
"""Seconds within which ranks must have ended after one of them was killed, or told to stop."""


@dataclass
class Attempt:
    """One start and its end."""

    start: Start
    from_step: int
    """That of the checkpoint in force before it."""
    injury: Injury | None
    injured: bool = False
    """The moment came, and something was done."""
    began: int | None = None
    """The step at which it began to train; None if it did not come so far."""
    seen: int = -1
    """Last step that had its metrics line when it was hurt."""
    reached: int = -1
    """The same when it had ended."""
    statuses: list[int] = field(default_factory=list)
    hung: bool = False
    """It did not end by itself where it must."""
    where: str | None = None
    """What it was doing when it was hurt."""
    in_force: int = 0
    """Step of the checkpoint in force after it."""
    problems: list[str] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """All ranks say that the run is done."""
        return set(self.statuses) == {DONE}

    @property
    def killed(self) -> bool:
        """The injury ended it before its time."""
        return self.injured and not self.finished

    def line(self) -> str:
        """For people: what was done and what came of it."""
        what = "undisturbed" if self.injury is None else f"{self.injury.how} in {self.injury.when}"
        if self.injury is not None and not self.injured:
            what += ", too late"
        where = f" (hit {self.where})" if self.where else ""
        world = f"{self.start.ranks} ranks, ZeRO {self.start.stage}, from {self.from_step}"
        end = f"reached {self.reached}, statuses {self.statuses}, checkpoint {self.in_force}"
        return "; ".join([world, what + where, end, *(["hung"] if self.hung else []), *self.problems])


@dataclass(frozen=True)
class Campaign:
    """What all runs of a campaign share."""

    project: Path
    times: Times
    seed: int
    say: Callable[[str], None]
    start_up: float
    """Seconds from a start to its first step, as the undisturbed run took."""


def run_under_chaos(campaign: Campaign, lane: Lane, number: int, kills: int) -> list[Attempt]:
    """Do one run, hurting it up to `kills` times; the last attempt has finished, or says what is wrong."""
    folder = RunFolder(campaign.project / "chaos" / lane.name / f"run-{number}")
    attempts: list[Attempt] = []
    while not attempts or (attempts[-1].killed and not attempts[-1].problems):
        draw = Random(f"{campaign.seed} {lane.name} {number} {len(attempts)}")
        left = kills - sum(attempt.killed for attempt in attempts)
        attempt = do_attempt(campaign, lane, folder, draw, hurt=left > 0)
        attempts.append(attempt)
        campaign.say(f"{lane.name} {number}.{len(attempts)}: {attempt.line()}")
    return attempts


def do_attempt(campaign: Campaign, lane: Lane, folder: RunFolder, draw: Random, *, hurt: bool) -> Attempt:
    """Start once, hurt it if it is to be, and look at what it left."""
    start, before = draw_start(lane, draw), step_in_force(folder)
    attempt = Attempt(start, before, draw_injury(draw, campaign.times, before, start.ranks) if hurt else None)
    with Ranks(arguments(lane, start, folder.path), start.ranks, campaign.project, folder.path) as ranks:
        if attempt.injury is not None:
            attempt.injured = wait_for(ranks, attempt.injury, campaign.start_up, PATIENCE)
        if attempt.injury is not None and attempt.injured:
            attempt.seen = ranks.reached()
            inflict(ranks, attempt.injury)
            attempt.where = place(ranks, attempt.injury, campaign.times)
        attempt.hung = not ranks.wait(ANSWER if attempt.injured else ranks.since + PATIENCE - time.monotonic())
        ranks.kill()
        attempt.statuses, attempt.began = ranks.statuses(), ranks.begun()
        attempt.reached = last_step(folder)
        said = ranks.said()
    attempt.problems = folder_problems(folder)
    if not attempt.problems:
        attempt.in_force = step_in_force(folder)
    attempt.problems += attempt_problems(attempt, campaign.times, said)
    return attempt


def place(ranks: Ranks, injury: Injury, times: Times) -> str:
    """What a run is doing that was hurt just now, by what its folder shows."""
    if ranks.begun() is None:
        return START_UP
    if ranks.is_saving():
        return SAVE
    reached = ranks.reached()
    if ranks.is_exporting() or reached >= times.total - 1:
        return EXPORT
    if injury.when == REFRESH and reached == injury.step - 1:
        return REFRESH
    return RAMP if reached < times.ramp_end else AFTER_THE_RAMP


def attempt_problems(attempt: Attempt, times: Times, said: str) -> list[str]:
    """What an attempt did not do as it must."""
    problems = []
    if attempt.began is not None and attempt.began < attempt.from_step:
        problems.append(f"began at step {attempt.began}, behind checkpoint {attempt.from_step}")
    if attempt.in_force < attempt.from_step:
        problems.append(f"checkpoint {attempt.from_step} is no longer in force")
    if attempt.reached < attempt.in_force - 1:
        problems.append(f"the metrics end at step {attempt.reached}, before checkpoint {attempt.in_force}")
    if attempt.hung or attempt.finished:
        return problems
    if attempt.injury is None or not attempt.injured:
        problems.append(f"ended by itself with statuses {attempt.statuses}: {last_words(said)}")
    elif attempt.injury.kills or attempt.reached >= times.total - 1:
        pass  # after the last step nobody listens: a signal is a kill
    elif set(attempt.statuses) != {STOPPED_AND_SAVED}:
        problems.append(f"asked to stop and ended with statuses {attempt.statuses}: {last_words(said)}")
    elif attempt.in_force <= attempt.seen:
        problems.append(f"stopped after step {attempt.seen} and saved nothing newer than {attempt.in_force}")
    return problems


def last_words(said: str) -> str:
    """The last line that a run printed."""
    return said.strip().splitlines()[-1] if said.strip() else "it said nothing"
