"""Runs that are hurt at random moments and started again, held against the same runs left alone.

    python benchmarks/chaos.py --kills 50 --seed 1 [--lanes one two any] [--folder DIR] [--json]

A small corpus and a small dense teacher are made by the real commands. Then, lane by lane, the sparse recipe runs once
undisturbed, and again and again under chaos until the lane's share of the kills is spent: SIGKILL to all ranks or to
one, SIGTERM or SIGUSR2 to one rank, a stop file; in start-up, between steps, at a mask refresh, inside a save, inside
the export. After every injury the folder may hold nothing half-written under a final name, and the next start must
continue from the checkpoint in force. Lanes: `one` and `two` (ranks; ZeRO 1, fp32, dropped weights may return) must end
with the undisturbed run's bytes, model and metrics; `any` draws 1, 2 or 4 ranks and ZeRO 1, 2 or 3 for every start, and
must end with as many zeros in every tensor, nearly all in the same places.

One line an injury, then one JSON object (with --json it alone goes to stdout). `lost`: kills after which a checkpoint
in force was not continued from, a run did not finish, a file was half-written or the end differs; `hung`: starts whose
ranks did not end within a minute after one was killed or told to stop. Exit status 1 if anything was lost, hung or
unequal.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.chaos_checks import Difference, difference, read_samples, samples_once
from benchmarks.chaos_lanes import (
    GLOBAL_SIZE,
    LANES,
    ROWS,
    Lane,
    arguments,
    first_start,
    make_project,
    times_of,
)
from benchmarks.chaos_ranks import LOOK, Ranks
from benchmarks.chaos_run import PATIENCE, Attempt, Campaign, run_under_chaos
from benchmarks.made_by import made_by


@dataclass(frozen=True)
class ChaosRun:
    """One run under chaos, and what it ended with."""

    lane: Lane
    attempts: list[Attempt]
    difference: Difference | None
    """From the undisturbed run; None if it did not finish."""
    samples_once: bool | None
    """Whether every row was read once per epoch; None if it did not finish."""

    @property
    def kills(self) -> int:
        """Injuries that ended a process."""
        return sum(attempt.killed for attempt in self.attempts)

    @property
    def is_hopeless(self) -> bool:
        """It failed by itself, so the next one would too."""
        return self.difference is None and not self.kills

    @property
    def lost(self) -> int:
        """Attempts with something wrong; one, if none was wrong by itself and the end is, or is missing."""
        wrong_end = self.difference is None or not self.difference.is_right(self.lane.exact)
        return sum(bool(attempt.problems) for attempt in self.attempts) or int(wrong_end)


def run_lane(project: Path, lane: Lane, kills: int, seed: int, say: Callable[[str], None]) -> list[ChaosRun]:
    """All runs of one lane; none follows one that failed before it was hurt."""
    alone = project / "chaos" / lane.name / "undisturbed"
    start_up = run_alone(project, lane, alone)
    say(f"{lane.name}: undisturbed run done, {start_up:.1f} s to its first step")
    campaign = Campaign(project, times_of(project), seed, say, start_up)
    runs: list[ChaosRun] = []
    while (left := kills - sum(run.kills for run in runs)) > 0 and not (runs and runs[-1].is_hopeless):
        attempts = run_under_chaos(campaign, lane, len(runs) + 1, left)
        folder = project / "chaos" / lane.name / f"run-{len(runs) + 1}"
        ended = attempts[-1].finished
        differs = difference(folder, alone) if ended else None
        once = read_once(folder, campaign.times.total) if ended else None
        runs.append(ChaosRun(lane, attempts, differs, once))
        say(f"{lane.name} {len(runs)}: {describe(runs[-1])}")
    return runs


def run_alone(project: Path, lane: Lane, folder: Path) -> float:
    """The undisturbed run of a lane; returns the seconds that it took to its first step.

    Raises:
        SystemExit: it failed, so there is nothing to compare with.
    """
    start = first_start(lane)
    with Ranks(arguments(lane, start, folder), start.ranks, project, folder) as ranks:
        while ranks.begun() is None and ranks.all_there():
            time.sleep(LOOK)
        start_up = time.monotonic() - ranks.since
        if not ranks.wait(PATIENCE) or set(ranks.statuses()) != {0}:
            raise SystemExit(f"the undisturbed run of lane {lane.name} failed:\n{ranks.said()[-3000:]}")
    return start_up


def read_once(folder: Path, steps: int) -> bool:
    """Whether the steps that count have read every row once per epoch."""
    return samples_once(read_samples(folder), rows=ROWS, global_size=GLOBAL_SIZE, steps=steps)


def describe(run: ChaosRun) -> str:
    """For people: how a run ended."""
    if run.difference is None:
        return "did not finish"
    same = "the same bytes" if run.difference.same_bytes else "other bytes"
    places, loss = run.difference.same_places, run.difference.loss
    return f"finished after {run.kills} kills with {same}, {places:.4%} equal mask places, losses within {loss:.2g}"


def summary(runs: list[ChaosRun], seed: int, seconds: float) -> dict[str, Any]:
    """What the campaign found."""
    ended = [(run.lane, run.difference) for run in runs if run.difference is not None]
    exact = [found.same_bytes for lane, found in ended if lane.exact]
    once = [run.samples_once for run in runs if run.samples_once is not None]
    attempts = [attempt for run in runs for attempt in run.attempts]
    killed = [attempt for attempt in attempts if attempt.killed]
    return {
        "seed": seed,
        "kills": len(killed),
        "lost": sum(run.lost for run in runs),
        "hung": sum(attempt.hung for attempt in attempts),
        "bitwise_equal": all(exact) if exact else None,
        "masks_equal_counts": all(found.same_counts for _, found in ended) if ended else None,
        "masks_equal_places": min((found.same_places for _, found in ended), default=None),
        "loss_difference": max((found.loss for _, found in ended), default=None),
        "samples_once": all(once) if once else None,
        "injuries": {
            "by_kind": dict(Counter(attempt.injury.how for attempt in killed if attempt.injury)),
            "by_place": dict(Counter(attempt.where for attempt in killed)),
        },
        "lanes": {name: of_lane(runs, name) for name in sorted({run.lane.name for run in runs})},
        "seconds": round(seconds, 1),
        **made_by(),
    }


def of_lane(runs: list[ChaosRun], name: str) -> dict[str, int]:
    """How much one lane did."""
    own = [run for run in runs if run.lane.name == name]
    return {
        "runs": len(own),
        "starts": sum(len(run.attempts) for run in own),
        "kills": sum(run.kills for run in own),
    }


def is_right(found: dict[str, Any]) -> bool:
    """Nothing lost, hung or unequal."""
    return not found["lost"] and not found["hung"] and found["samples_once"] is not False


def shares(kills: int, lanes: list[str]) -> dict[str, int]:
    """The kills of a campaign, divided among its lanes."""
    return {name: kills // len(lanes) + (number < kills % len(lanes)) for number, name in enumerate(lanes)}


def arguments_given() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="injuries that end a process (default 50)")
    parser.add_argument("--seed", type=int, required=True, metavar="S", help="of all that is drawn")
    parser.add_argument("--lanes", nargs="+", choices=list(LANES), default=list(LANES), help="default: all")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where runs go and stay (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object to stdout")
    options = parser.parse_args()
    if options.kills < 1:
        parser.error("--kills must be at least 1")
    if options.folder is not None and (options.folder / "chaos").exists():
        parser.error(f"{options.folder} holds a campaign; choose another --folder, or remove {options.folder}/chaos")
    return options


def main() -> int:
    """Do the campaign, and say whether all is as it must be."""
    options = arguments_given()
    began = time.monotonic()

    def say(line: str) -> None:
        """Progress, with the seconds gone by."""
        print(f"{time.monotonic() - began:7.1f} s  {line}", file=sys.stderr if options.json else sys.stdout, flush=True)

    say(f"seed {options.seed}, {options.kills} kills over {', '.join(options.lanes)}")
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        project = make_project(folder.absolute())
        say("data and teacher made")
        runs = []
        for name, kills in shares(options.kills, options.lanes).items():
            runs += run_lane(project, LANES[name], kills, options.seed, say)
    found = summary(runs, options.seed, time.monotonic() - began)
    print(json.dumps(found))
    return 0 if is_right(found) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that contexts end, and with them all processes
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
