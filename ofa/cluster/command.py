"""The command that a job does: which script, of `launch/` or `data_prep`, with which arguments and which run folder."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from ofa.config import CHECKOUT, CONFIGS, find, run_folder
from ofa.sections.base import nearest
from ofa.slurm.environment import python_path
from ofa.slurm.errors import SubmitError

TRAINING = ("pretrain", "finetune", "cofi", "qat")
"""Scripts whose processes are ranks."""

OTHERS = ("sweep", "export", "verify", "evaluate", "predict", "benchmark", "report")
"""Scripts of one process."""

DATA_PREP = "data_prep"
SCRIPTS = (DATA_PREP, *TRAINING, *OTHERS)

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
    def saves(self) -> bool:
        """Whether it keeps what it has done so far when it is asked to end."""
        return self.trains or self.script in (DATA_PREP, "sweep")

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


def read_call(words: Sequence[str], each: Sequence[str] = ()) -> ScriptCall:
    """A script's name or path and its arguments.

    Args:
        words: as they are typed.
        each: as that of `expanded`: an array over configs says with its first one which it is, if nothing else does.

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
    if {"-h", "--help"} & set(arguments):
        program = "-m data_prep" if script == DATA_PREP else f"launch/{script}.py"
        raise SubmitError(f"its help is no job: python {program} --help")
    given, rest = _known().parse_known_args(arguments)
    sets = [part for one in given.set for part in ("--set", one)]
    has_config = script in (DATA_PREP, "sweep", *TRAINING)
    if not has_config:
        return ScriptCall(script, None, None, tuple(arguments))
    of_array = next((one.removeprefix("config=").split(",")[0] for one in each if one.startswith("config=")), None)
    config = given.config or of_array
    if not config:
        raise SubmitError(f"{first} needs --config FILE")
    folder = None if script == DATA_PREP else Path(given.run_dir or run_folder(config))
    find(config)
    return ScriptCall(script, config, folder, (*rest, *sets))


def expanded(call: ScriptCall, each: Sequence[str]) -> list[ScriptCall]:
    """The calls of an array: one for every combination of values.

    Args:
        call: what they share.
        each: `KEY=A,B,C` with a key of the config, or `config`.

    Raises:
        SubmitError: a key has no values, or a value stands there twice.
        ConfigError: there is no such config.
    """
    axes = []
    for one in each:
        key, _, values = one.partition("=")
        if not key or not all(values.split(",")):
            raise SubmitError(f"--each {one}: expected KEY=VALUE,VALUE such as seed=1,2,3 or config=a.json,b.json")
        if call.run_dir is None:
            raise SubmitError(f"--each {one}: {call.script} has no run folder, each run of an array needs its own")
        twice = [value for value, times in Counter(values.split(",")).items() if times > 1]
        if twice:
            raise SubmitError(f"--each {one}: {', '.join(twice)} stands there twice, which would be one run")
        axes.append([(key, value) for value in values.split(",")])
    axes.sort(key=lambda axis: axis[0][0] != "config")  # whose folder the others' values are written behind
    return [_with(call, point) for point in product(*axes)]


def environment(program: Sequence[str]) -> dict[str, str]:
    """That of this process, in which `ofa` is the code that this file is of, and not what the working directory has.

    Args:
        program: Python's arguments.
    """
    safe = {"PYTHONSAFEPATH": "1"} if program[0] == "-m" else {}
    return {**os.environ, "PYTHONPATH": python_path(), **safe}


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


def _in_code(config: Path, code: Path) -> Path:
    """A config of the checkout, where it is in a copy of that; others stay where they are."""
    return code / "configs" / config.relative_to(CONFIGS) if config.is_relative_to(CONFIGS) else config
