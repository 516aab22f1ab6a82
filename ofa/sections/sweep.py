"""One sweep: many runs of one script, and what is averaged over which of them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ofa.sections.base import Section
from ofa.sections.nodes import node_range


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


class JobConfig(Section):
    """What a run that is a job asks for: options of launch/submit.py."""

    ELSEWHERE: ClassVar[dict[str, str]] = {
        "timeout_min": "minutes",
        "time": "minutes",
        "mem": "mem_gb",
        "gpus": "gpus_per_node",
    }

    cluster: Literal["slurm", "local"] = "slurm"
    """local: submitit's processes on this machine, to try a sweep without Slurm."""

    nodes: int | str = 1
    """Machines of a run, or as many as there are: 4, "1-4" or "1,2,4"."""

    gpus_per_node: int = Field(default=0, ge=0)
    """Each with a process."""

    tasks_per_node: int | None = Field(default=None, gt=0)
    """Processes, where there are no GPUs; null: one."""

    cpus_per_task: int | None = Field(default=None, gt=0)
    """Of each process; null: as Slurm has it."""

    mem_gb: float | None = Field(default=None, ge=0.0)
    """Of a node; 0: all of it."""

    minutes: int = Field(default=60, gt=0)
    """Of one attempt: it saves before that and is queued again."""

    grace: int = Field(default=120, gt=0)
    """Seconds before the limit at which it is asked to save."""

    partition: str | None = None
    """As sbatch has it, and the four that follow; null: Slurm's own."""

    account: str | None = None
    """Who is charged."""

    qos: str | None = None
    """Quality of service."""

    constraint: str | None = None
    """Features that nodes must have."""

    exclude: str | None = None
    """Nodes that are not to be used."""

    setup: list[str] = []
    """Commands of the shell that come before the run."""

    sbatch: list[str] = []
    """Any other options of sbatch, as `KEY=VALUE`."""

    max_requeues: int = Field(default=100, ge=0)
    """How often a job is queued again, in all."""

    max_crashes: int = Field(default=2, ge=0)
    """How often it is queued again after crashes in a row with no step saved between them."""

    max_kills: int = Field(default=20, ge=0)
    """The same of ends that Slurm caused: preemption without grace, lost nodes."""

    @field_validator("nodes")
    @classmethod
    def _numbers(cls, value: int | str) -> int | str:
        node_range(str(value))
        return value

    @model_validator(mode="after")
    def _one_process_a_gpu(self) -> JobConfig:
        if self.gpus_per_node and self.tasks_per_node:
            raise ValueError("tasks_per_node is for nodes without GPUs: each GPU has one process")
        return self


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

    slurm: JobConfig = JobConfig()
    """With --slurm, what each run asks for."""
