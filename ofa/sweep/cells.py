"""One run of a sweep, and what is checked of all of them before the first begins.

A run that is finished is not done again, so it is held against what the sweep asks for now: a table must not mix runs
of two configs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from ofa.cluster.command import ScriptCall
from ofa.config import (
    CHECKOUT,
    CofiConfig,
    CofiMlmConfig,
    ConfigError,
    FinetuneConfig,
    QatConfig,
    RunConfig,
    TrainingConfig,
    differences,
    load_one_of,
    parse,
)
from ofa.data.task_files import check_files
from ofa.data.tasks import task_for
from ofa.files import is_within
from ofa.inputs import model_places
from ofa.run_files import read_json
from ofa.run_folder import RunFolder
from ofa.sweep.axes import SweepError

KINDS: dict[str, tuple[type[TrainingConfig], ...]] = {
    "pretrain": (RunConfig,),
    "finetune": (FinetuneConfig,),
    "cofi": (CofiConfig, CofiMlmConfig),
    "qat": (QatConfig,),
}
"""The sections that each script reads."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    name: str
    """Its folder's name: the kind and the grid's values."""

    kind: str
    """The name of the cell in the sweep's config; empty if that has none."""

    at: dict[str, str]
    """The label of its value for each grid key."""

    script: str
    config: str
    """The config file as given."""

    overrides: tuple[str, ...]
    """`key=value`, as for --set."""

    needs: tuple[str, ...]
    """Names of runs that must be finished first."""

    folder: RunFolder

    def command(self, *more: str) -> list[str]:
        """The command line that does the run."""
        script = CHECKOUT / "launch" / f"{self.script}.py"
        run_dir = ["--run-dir", str(self.folder.path)]
        return [sys.executable, str(script), "--config", self.config, *self._sets(), *run_dir, *more]

    def call(self, *more: str) -> ScriptCall:
        """The same as what a job does."""
        return ScriptCall(self.script, self.config, self.folder.path, (*self._sets(), *more))

    def _sets(self) -> list[str]:
        return [part for one in self.overrides for part in ("--set", one)]

    def is_done(self) -> bool:
        """Whether its result is there."""
        return self.folder.result.is_file()


def check(cells: Sequence[Cell]) -> dict[str, TrainingConfig]:
    """Load every cell's config, and hold it against what the runs that have begun began with.

    Returns:
        The configs, by the cells' names.

    Raises:
        SweepError: with the cell's name, and the key.
    """
    configs = {}
    for cell in cells:
        try:
            configs[cell.name] = load_one_of(KINDS[cell.script], cell.config, list(cell.overrides))
            _check_begun(cell, configs[cell.name])
        except ConfigError as error:
            raise SweepError(f"cell {cell.name}: {error}") from None
    return configs


def chosen(cells: Sequence[Cell], pattern: str | None) -> list[Cell]:
    """The cells whose names match a pattern of the shell; all without one.

    Raises:
        SweepError: none matches, or one needs another that is neither finished nor chosen.
    """
    found = [cell for cell in cells if pattern is None or fnmatchcase(cell.name, pattern)]
    if not found:
        raise SweepError(f"--only {pattern}: no cell is called so; there are {', '.join(cell.name for cell in cells)}")
    there = {cell.name for cell in cells if cell.is_done()} | {cell.name for cell in found}
    for cell in found:
        missing = [name for name in cell.needs if name not in there]
        if missing:
            raise SweepError(
                f"--only {pattern}: {cell.name} needs {', '.join(missing)}, which is neither finished nor chosen: "
                "run it first, or choose it too"
            )
    return found


def missing_places(
    cells: Sequence[Cell], configs: Mapping[str, TrainingConfig], made: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Which models and task files are not there, as far as no other cell makes them.

    Args:
        cells, configs: of a sweep.
        made: folders that others make before it is started.

    Returns:
        What to do about each, and the names of the cells that need it.
    """
    folders = [*made, *(cell.folder.path for cell in cells)]
    found: dict[str, list[str]] = {}
    for cell in cells:
        for problem in [] if cell.is_done() else _missing(configs[cell.name], folders):
            found.setdefault(problem, []).append(cell.name)
    return found


def check_places(
    cells: Sequence[Cell], configs: Mapping[str, TrainingConfig], made: Sequence[str] = ()
) -> None:
    """Refuse a sweep whose models or task files are not there; arguments as those of `missing_places`.

    Raises:
        SweepError: with the first cell's name, and what to do.
    """
    for problem, (first, *_) in missing_places(cells, configs, made).items():
        raise SweepError(f"cell {first}: {problem}")


def _missing(config: TrainingConfig, made: Sequence[str | Path]) -> Iterator[str]:
    checks = [place.check for place in model_places(config) if not is_within(place.init, made)]
    if isinstance(config, FinetuneConfig) and not (config.task.path and is_within(config.task.path, made)):
        checks.append(partial(check_files, task_for(config.task), config.task))
    for check_one in checks:
        try:
            check_one()
        except ValueError as error:
            yield str(error)


def _check_begun(cell: Cell, config: TrainingConfig) -> None:
    if not cell.folder.has_started():
        return
    path = cell.folder.config
    begun = parse(type(config), read_json(path).get("config", {}), origin=str(path))
    changed = differences(begun.decisive(), config.decisive())
    if changed:
        raise SweepError(
            f"cell {cell.name}: {cell.folder.path} was run with another config: {'; '.join(changed)}. Remove that "
            "folder, give the cell another name, or give the sweep another --run-dir"
        )
