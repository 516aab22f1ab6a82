"""The command that a job does: which script with which arguments, where its run folder is, and whether it would start.

A script of `launch/`, or `data_prep`. What is wrong with it is found out here, on the login node: the script looks at
its own arguments, config and inputs (`--check`), for every number of ranks that the job may get.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from ofa.config import CHECKOUT, CONFIGS, find, run_folder
from ofa.inputs import is_made
from ofa.models.place import is_local, not_a_folder
from ofa.run_files import is_held
from ofa.sections.base import nearest
from ofa.slurm.errors import SubmitError
from ofa.slurm.python_path import python_path

TRAINING = ("pretrain", "finetune", "cofi", "qat")
"""Scripts whose processes are ranks."""

OTHERS = ("sweep", "export", "verify", "evaluate", "predict", "benchmark", "report")
"""Scripts of one process."""

DATA_PREP = "data_prep"
SCRIPTS = (DATA_PREP, *TRAINING, *OTHERS)

MOST_CHECKS = 8
"""Numbers of ranks that are tried; of more, the fewest and the most: what `ofa.cluster.division` looks for in all of
them is all that a number between could spoil."""


@dataclass(frozen=True)
class ScriptCall:
    """One script with its arguments."""

    script: str
    config: str | None
    """As given; None for scripts that have none."""

    run_dir: Path | None
    """Relative to the working directory, if it is not absolute; None: it has no run folder."""

    arguments: tuple[str, ...]
    """All others."""

    @property
    def trains(self) -> bool:
        """Whether it is done by several ranks."""
        return self.script in TRAINING

    @property
    def sets(self) -> list[str]:
        """What it sets over its config, as `KEY=VALUE`."""
        return _known().parse_known_args(self.arguments)[0].set

    @property
    def name(self) -> str:
        """For people, and Slurm."""
        if self.run_dir is not None:
            return f"{self.script}:{self.run_dir.name}"
        return self.script if self.config is None else f"{self.script}:{Path(self.config).stem}"

    def program(self, code: Path) -> tuple[str, ...]:
        """Python's arguments, where the code is in a folder."""
        start = ("-m", DATA_PREP) if self.script == DATA_PREP else (str(code / "launch" / f"{self.script}.py"),)
        config = () if self.config is None else ("--config", str(_in_code(find(self.config), code)))
        folder = () if self.run_dir is None else ("--run-dir", str(self.run_dir))
        return (*start, *config, *folder, *self.arguments)


def read_call(words: Sequence[str]) -> ScriptCall:
    """A script's name or path and its arguments.

    Raises:
        SubmitError: there is no such script, or it lacks its config.
        ConfigError: there is no such config.
    """
    if not words:
        raise SubmitError(f"no script to run: give launch/pretrain.py or another of {', '.join(SCRIPTS)}")
    first, *arguments = words
    script = Path(first).stem if first.endswith(".py") else first
    if script not in SCRIPTS:
        raise SubmitError(f"{first} is no script that can be submitted{nearest(script, list(SCRIPTS))}")
    if Path(first).is_file() and Path(first).resolve() != CHECKOUT / "launch" / f"{script}.py":
        raise SubmitError(f"{first}: only scripts of {CHECKOUT / 'launch'} can be submitted")
    given, rest = _known().parse_known_args(arguments)
    sets = [part for one in given.set for part in ("--set", one)]
    has_config = script in (DATA_PREP, "sweep", *TRAINING)
    if has_config and given.config is None:
        raise SubmitError(f"{first} needs --config FILE")
    if not has_config:
        return ScriptCall(script, None, None, tuple(arguments))
    folder = None if script == DATA_PREP else Path(given.run_dir or run_folder(given.config))
    find(given.config)
    return ScriptCall(script, given.config, folder, (*rest, *sets))


def expanded(call: ScriptCall, each: Sequence[str]) -> list[ScriptCall]:
    """The calls of an array: one for every combination of values.

    Args:
        call: what they share.
        each: `KEY=A,B,C` with a key of the config, or `config`.

    Raises:
        SubmitError: a key has no values.
        ConfigError: there is no such config.
    """
    axes = []
    for one in each:
        key, _, values = one.partition("=")
        if not key or not all(values.split(",")):
            raise SubmitError(f"--each {one}: expected KEY=VALUE,VALUE such as seed=1,2,3 or config=a.json,b.json")
        if call.run_dir is None:
            raise SubmitError(f"--each {one}: {call.script} has no run folder, each run of an array needs its own")
        axes.append([(key, value) for value in dict.fromkeys(values.split(","))])
    return [_with(call, point) for point in product(*axes)]


def check(call: ScriptCall, rank_counts: Sequence[int], made: Sequence[Path] = ()) -> list[Path]:
    """Refuse a call that would not start; gives the folders that it makes.

    Args:
        call: what is to be done.
        rank_counts: each number of ranks that the job may get.
        made: what those before it in its chain make; not looked for.

    Raises:
        SubmitError: in the script's own words, or naming a folder that nobody makes.
    """
    if call.run_dir is not None:
        check_folder(call.run_dir)
    if call.trains:
        few = rank_counts if len(rank_counts) <= MOST_CHECKS else [rank_counts[0], rank_counts[-1]]
        _ask(call, few, "--check", "all", *_options("--made", made))
    elif call.script == DATA_PREP:
        _ask(call, [1], "--check")
    elif call.script == "sweep":
        _ask(call, [1], "--check", *_options("--made", made))
    else:
        (said,) = _ask(call, [1], OFA_CHECK="arguments")
        places = json.loads(said.splitlines()[-1])
        _check_there(call, places, made)
        return [Path(one) for one in places["writes"]]
    return [_data_folder(call) if call.run_dir is None else call.run_dir]


def _check_there(call: ScriptCall, places: dict[str, list[str]], made: Sequence[Path]) -> None:
    """Refuse what a script is to read and nobody makes; `places` as `launch/common.py` prints them."""
    read = [*places["folders"], *filter(is_local, places["models"])]
    for place in (Path(one).expanduser() for one in read):
        if not place.exists() and not is_made(place, made):
            expected = "one that is there, or that a job before this one makes"
            raise SubmitError(f"{call.name}: {not_a_folder(place, expected)}")


def _data_folder(call: ScriptCall) -> Path:
    """Where data preparation writes."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output", default=Path("data", find(call.config or "").stem))
    return Path(parser.parse_known_args(call.arguments)[0].output)


def environment(program: Sequence[str]) -> dict[str, str]:
    """That of this process, in which `ofa` is the code that this file is of, and not what the working directory has.

    Args:
        program: Python's arguments.
    """
    safe = {"PYTHONSAFEPATH": "1"} if program[0] == "-m" else {}
    return {**os.environ, "PYTHONPATH": python_path(), **safe}


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
        raise SubmitError(f"run folder {folder} is in use by a run; stop that, or choose another --run-dir")


def _ask(call: ScriptCall, rank_counts: Sequence[int], *more: str, **own: str) -> list[str]:
    """Have the script look itself, for all numbers of ranks side by side; gives what it printed for each."""
    program = (*call.program(CHECKOUT), *more)
    asked = []
    for ranks in rank_counts:
        world = {"WORLD_SIZE": str(ranks), "RANK": "0", "LOCAL_RANK": "0"}
        process = subprocess.Popen(
            [sys.executable, *program],
            env={**environment(program), **world, **own},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        asked.append((ranks, process))
    answers = [(ranks, *process.communicate(), process.returncode) for ranks, process in asked]
    for ranks, _, said, status in answers:
        if status:
            lines = said.splitlines() or [f"looking for mistakes ended with status {status} and no word"]
            errors = [line for line in lines if "error: " in line] or lines
            of_ranks = f" on {ranks} ranks" if len(answers) > 1 else ""
            error = errors[-1].partition("error: ")[2] or errors[-1]
            hint = "; options of submit.py stand before the script" if "unrecognized arguments" in error else ""
            raise SubmitError(f"{call.name}{of_ranks}: {error}{hint}")
    return [printed for _, printed, _, _ in answers]


def _with(call: ScriptCall, point: Sequence[tuple[str, str]]) -> ScriptCall:
    name = "" if call.run_dir is None else call.run_dir.name
    for key, value in point:
        if key == "config":
            own = call.run_dir == run_folder(call.config or "")
            call = replace(call, config=value, run_dir=run_folder(value) if own else call.run_dir)
            name = call.run_dir.name if own and call.run_dir else f"{name}-{Path(value).stem}"
        else:
            call = replace(call, arguments=(*call.arguments, "--set", f"{key}={value}"))
            name = f"{name}-{key}={value.replace('/', '_')}"
    return replace(call, run_dir=call.run_dir.with_name(name) if call.run_dir else None)


def _known() -> argparse.ArgumentParser:
    """What is to be known of a script's arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--run-dir")
    parser.add_argument("--set", action="append", default=[])
    return parser


def _options(name: str, values: Sequence[Path]) -> list[str]:
    return [part for value in values for part in (name, str(value))]


def _in_code(config: Path, code: Path) -> Path:
    """A config of the checkout, where it is in a copy of that; others stay where they are."""
    return code / "configs" / config.relative_to(CONFIGS) if config.is_relative_to(CONFIGS) else config
