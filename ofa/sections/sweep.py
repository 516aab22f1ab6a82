"""One sweep: many runs of one script, and what is averaged over which of them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from ofa.sections.base import Section


class NamedValuesConfig(Section):
    """One value of a grid key that sets several keys of the run's config at once."""

    name: str
    """Stands in the run's name and in the table."""

    set: dict[str, Any]
    """Keys of the run's config in dots, and their values."""


class CellConfig(Section):
    """One kind of run; the grid multiplies it."""

    name: str
    """Stands in the run's name and in the table."""

    config: str | None = None
    """The run's config, in place of the sweep's."""

    set: dict[str, Any] = {}
    """Keys of the run's config in dots, and their values; these win over the sweep's. In a text `{task}` is the grid
    key's value in this run, and `{dense}` the run folder of the cell `dense`, which is then needed."""

    grid: dict[str, list[Any] | None] = {}
    """Grid keys of this cell alone, or with other values; null: the cell is not multiplied by that key."""

    needs: list[str] = []
    """Cells that must be finished first: their runs that have the same values of the grid keys that both have."""


class SweepConfig(Section):
    """Many runs of one script: every cell times every combination of the grid's values."""

    DOTTED: ClassVar[tuple[str, ...]] = ("grid",)

    script: Literal["pretrain", "finetune", "cofi", "qat"]
    """Which launch/ script runs each cell."""

    config: str
    """The runs' config: a path, or a name under configs/."""

    set: dict[str, Any] = {}
    """Keys of the runs' config in dots, and their values."""

    cells: list[CellConfig] = []
    """Kinds of runs; none: the grid alone."""

    grid: dict[str, list[Any]] = {}
    """For each key its values. A number, text, true, false or null is the value of the config key that it stands for;
    an object with `name` and `set` sets several, and then the grid key may have any name."""

    over: list[str] = ["seed"]
    """Grid keys that the table averages over."""

    metric: str | None = None
    """The value that is plotted, and stands first in the table; null: what the runs say is theirs."""

    panels: str | None = None
    """Grid key whose values have a panel each in the plot; null: `task`, if there is such a key."""

    slurm: dict[str, Any] = {}
    """Parameters of submitit's AutoExecutor, such as timeout_min, gpus_per_node, slurm_partition; `cluster` may be
    `local` to try a sweep without Slurm."""
