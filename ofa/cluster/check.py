"""Whether calls would start, found out on the login node: each script looks at its own arguments, config and inputs
(`--check`), for every number of ranks that the job may get; of an array each point, side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from ofa.cluster.command import DATA_PREP, ScriptCall, environment
from ofa.config import CHECKOUT, find
from ofa.files import is_within
from ofa.models.place import is_local, not_a_folder
from ofa.run_files import in_use, is_held
from ofa.slurm.errors import SubmitError

MOST_CHECKS = 8
"""Numbers of ranks that are tried; of more, the fewest and the most: what `ofa.cluster.division` looks for in all of
them is all that a number between could spoil."""


NAMED = 5
"""Calls that one mistake names."""

SHOWN = 3
"""Mistakes that are said of an array."""

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """A script that looks itself."""

    ranks: int
    program: tuple[str, ...]
    variables: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What it has found."""

    ranks: int
    status: int
    printed: str
    said: str


def check_all(calls: Sequence[ScriptCall], rank_counts: Sequence[int], made: Sequence[Path] = ()) -> list[Path]:
    """Refuse calls of which some would not start; gives the folders that they make.

    Args:
        calls: what is to be done, by the jobs of one array.
        rank_counts: each number of ranks that a job may get.
        made: what those before it in its chain make; not looked for.

    Raises:
        SubmitError: in the scripts' own words, or naming folders that nobody makes.
    """
    for_each(calls, lambda call: None if call.run_dir is None else check_folder(call.run_dir))
    questions = {call: _questions(call, rank_counts, made) for call in calls}
    answers = iter(_answers([one for several in questions.values() for one in several]))
    answered = {call: list(islice(answers, len(several))) for call, several in questions.items()}
    return [folder for one in for_each(calls, lambda call: _folders(call, answered[call], made)) for folder in one]


def for_each(calls: Sequence[ScriptCall], look: Callable[[ScriptCall], T]) -> list[T]:
    """What is found of each call.

    Raises:
        SubmitError: what is wrong, with all that it is wrong of; `look` raised it for one of them.
    """
    found: list[T] = []
    wrong: dict[str, list[str]] = {}
    for call in calls:
        try:
            found.append(look(call))
        except SubmitError as error:
            mistake = str(error).removeprefix(call.name)
            wrong.setdefault(mistake, []).append(call.name if mistake != str(error) else "")
    if wrong:
        several = [f"{_first(names, NAMED)}{mistake}" for mistake, names in wrong.items()]
        more = f"; and {len(several) - SHOWN} more" if len(several) > SHOWN else ""
        raise SubmitError("; ".join(several[:SHOWN]) + more)
    return found


def check_folder(folder: Path) -> None:
    """Refuse a run folder that cannot be made or written, or that a live run holds.

    Raises:
        SubmitError: why.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise SubmitError(
            f"run folder {folder} cannot be written: {there}: {error.strerror}; choose another --run-dir"
        ) from None
    if is_held(folder):
        raise SubmitError(in_use(folder, "a run"))


def _first(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(filter(None, names[:most])) + more


def _questions(call: ScriptCall, rank_counts: Sequence[int], made: Sequence[Path]) -> list[Question]:
    own = [part for folder in made for part in ("--made", str(folder))]
    if call.trains:
        few = rank_counts if len(rank_counts) <= MOST_CHECKS else [rank_counts[0], rank_counts[-1]]
        return [_question(call, ranks, "--check", "all", *own) for ranks in few]
    if call.script in (DATA_PREP, "sweep"):
        return [_question(call, 1, "--check", *own)]
    return [_question(call, 1, OFA_CHECK="arguments")]


def _question(call: ScriptCall, ranks: int, *more: str, **own: str) -> Question:
    program = (*call.program(CHECKOUT), *more)
    world = {"WORLD_SIZE": str(ranks), "RANK": "0", "LOCAL_RANK": "0"}
    return Question(ranks, program, {**environment(program), **world, **own})


def _answers(questions: Sequence[Question]) -> list[Answer]:
    """Of all, as many at a time as there are cores."""
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    try:
        return list(pool.map(_answer, questions))
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C no further ones are begun


def _answer(question: Question) -> Answer:
    done = subprocess.run(
        [sys.executable, *question.program],
        env=dict(question.variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return Answer(question.ranks, done.returncode, done.stdout, done.stderr)


def _folders(call: ScriptCall, answers: Sequence[Answer], made: Sequence[Path]) -> list[Path]:
    """What a call makes, if its script has nothing against it."""
    for one in answers:
        if one.status:
            lines = one.said.splitlines() or [f"looking for mistakes ended with status {one.status} and no word"]
            errors = [line for line in lines if "error: " in line] or lines
            of_ranks = f" on {one.ranks} ranks" if len(answers) > 1 else ""
            error = errors[-1].partition("error: ")[2] or errors[-1]
            hint = "; options of submit.py stand before the script" if "unrecognized arguments" in error else ""
            raise SubmitError(f"{call.name}{of_ranks}: {error}{hint}")
    if call.trains or call.script in (DATA_PREP, "sweep"):
        return [_data_folder(call) if call.run_dir is None else call.run_dir]
    places = json.loads(answers[0].printed.splitlines()[-1])
    _check_there(call, places, made)
    return [Path(one) for one in places["writes"]]


def _check_there(call: ScriptCall, places: dict[str, list[str]], made: Sequence[Path]) -> None:
    """Refuse what a script is to read and nobody makes; `places` as `launch/common.py` prints them."""
    read = [*places["folders"], *filter(is_local, places["models"])]
    for place in (Path(one).expanduser() for one in read):
        if not place.exists() and not is_within(place, made):
            expected = "one that is there, or that a job before this one makes"
            raise SubmitError(f"{call.name}: {not_a_folder(place, expected)}")


def _data_folder(call: ScriptCall) -> Path:
    """Where data preparation writes."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output", default=Path("data", find(call.config or "").stem))
    return Path(parser.parse_known_args(call.arguments)[0].output)
