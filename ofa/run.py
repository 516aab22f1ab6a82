"""The parts of one run on one rank, whatever it trains: what the loop of `ofa.train` works with.

Pre-training and fine-tuning fill the parts in their own way (`ofa.assemble`, `ofa.downstream.assemble`) and differ
beyond them in what they are scored by and in what they remember.
"""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from ofa import dist
from ofa.checkpoint import Checkpoints, Start, load
from ofa.config import TrainingConfig, differences
from ofa.engine.engine import Engine
from ofa.export.recipe_file import Parent
from ofa.guard import UpdateGuard
from ofa.journal import Journal, NotFinite
from ofa.progress import Progress
from ofa.pruning.pruner import Pruner
from ofa.recipe import Recipe
from ofa.run_files import read_json
from ofa.run_folder import RunFolder, hardware, versions
from ofa.samples import SampleLog, cut_back
from ofa.sections.training import division

LOG = logging.getLogger(__name__)


class Totals(Protocol):
    """Counts of one global batch over all ranks."""

    @property
    def tokens(self) -> int:
        """Real tokens, padding excluded."""
        ...

    @property
    def counted(self) -> int:
        """What the mean of the main loss, and accuracy, divide by."""
        ...


class Batches(Protocol):
    """A source of global batches, each a pure function of its number."""

    def batches(self, start_step: int = 0) -> Generator[tuple[Any, list[Any]]]:
        """(Totals, this rank's micro-batches) of global batch start_step, start_step + 1, ..."""
        ...


class Teaches(Protocol):
    """A frozen model that is asked for targets."""

    def targets(self, batch: Any) -> Any:
        """What the student is to learn from this micro-batch."""
        ...


@dataclass
class Run(ABC):
    """The parts of one run on one rank."""

    name: str
    config: TrainingConfig
    folder: RunFolder
    data_fingerprint: str
    loader: Batches
    recipe: Recipe
    module: nn.Module
    engine: Engine
    teacher: Teaches | None
    pruner: Pruner
    journal: Journal
    progress: Progress
    parents: list[Parent]
    guard: UpdateGuard
    validate_every: int
    """Steps between two validations."""
    start_step: int = 0
    batch: int = 0
    """Number of the next global batch: updates tried so far, the skipped ones too."""
    seconds: float = 0.0
    """Of earlier processes of this run, up to the checkpoint that it continues from."""
    patterns: dict[str, str] = field(default_factory=dict, kw_only=True)
    """Of the locked masks, by parameter name, as the base's masks.safetensors says; none where nothing is locked."""

    def __post_init__(self):
        self.checkpoints = Checkpoints(self.folder.checkpoints, self.config.checkpoint)
        self.samples = SampleLog(self.folder.samples, active=self.config.log.samples)
        self.loss_since_save = torch.zeros((), device=dist.device())
        """Sum of this rank's losses, on the device: not a number as soon as one is not."""
        self.began = time.perf_counter()
        """When this process began; `ofa.train` puts it back to before the parts were made."""

    @property
    def steps_of_all_stages(self) -> int:
        """Steps after which nothing is left to train; `recipe` ends with this stage."""
        return self.recipe.total_steps

    def more_for_the_line(self) -> dict[str, float]:
        """What the metrics line of an update says besides; may read the device."""
        return {}

    @abstractmethod
    def scores(self) -> dict[str, float]:
        """Scores of the student on the validation rows, `validation_loss` among them (a collective call)."""

    @abstractmethod
    def in_words(self, scores: dict[str, float]) -> str:
        """Those for a line of the log."""

    def take_note(self, step: int, scores: dict[str, float]) -> None:
        """Of the scores after `step` updates.

        Raises:
            NotFinite: the loss is not.
        """
        if not math.isfinite(scores["validation_loss"]):
            raise NotFinite(f"the validation loss of step {step} is {scores['validation_loss']}: the run has diverged")

    def validates_at(self, step: int) -> bool:
        """Whether the student is scored with `step` updates applied."""
        return step == self.recipe.total_steps or step % self.validate_every == 0

    def saves_at(self, step: int) -> bool:
        """Whether the state with `step` updates applied is written, but for the one that the run begins with."""
        return step % self.config.checkpoint.every == 0 or step in (self.config.rewind_target, self.recipe.total_steps)

    def needed_steps(self) -> set[int]:
        """Steps whose checkpoints stay, however old they are."""
        return set() if self.config.rewind_target is None else {self.config.rewind_target}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds besides the engine's state."""
        parents = [asdict(parent) for parent in self.parents]
        state = {"batch": self.batch, "name": self.name, "parents": parents, "seconds": self.total_seconds()}
        return state | {"pruner": self.pruner.state_dict(), "guard": self.guard.state_dict()}

    def load_state_dict(self, step: int, state: dict[str, Any]) -> None:
        """Continue from a checkpoint of `step`, whose weights the engine has loaded.

        Raises:
            ValueError: it is of other parents, or its masks do not fit.
        """
        _check_parents(state["parents"], self.parents)
        self.pruner.load_state_dict(state["pruner"], self.recipe.at(step))
        self.guard.load_state_dict(state["guard"])
        self.start_step, self.batch, self.seconds = step, state["batch"], state.get("seconds", 0.0)

    def described(self) -> TrainingConfig:
        """The config as recipe.json and the model's card tell it."""
        return self.config

    def more_for_the_result(self) -> dict[str, Any]:
        """What result.json says besides."""
        return {}

    def more_for_the_recipe(self) -> dict[str, Any]:
        """What recipe.json says besides."""
        return {}

    def more_for_the_row(self) -> dict[str, Any]:
        """What the table says of the model besides."""
        return {}

    def locked(self) -> dict[str, Any]:
        """What recipe.json says of zeros that were kept; nothing where none were."""
        if not self.patterns or not self.pruner.keep:
            return {}
        return {"lock": {"mask_hash": self.pruner.state_dict()["mask_hash"], "patterns": self.patterns}}

    def total_seconds(self) -> float:
        """Time since the start of every process of this run, without what was done again after a kill."""
        return self.seconds + time.perf_counter() - self.began


def resume(run: Run, start: Start) -> None:
    """Load a checkpoint into a run that was just assembled (a collective call)."""
    step, state = load(run.engine, start)
    if dist.rank() == 0:
        _warn_of_other_surroundings(run.folder, run.config)
    run.load_state_dict(step, state)
    LOG.info("continuing from %s", start.path)


def begin(run: Run) -> None:
    """Cut the records back to the step at which the run begins or goes on, and start what watches it (a collective
    call)."""
    run.journal.metrics.cut_back(run.start_step)
    dist.on_rank_zero(lambda: cut_back(run.folder.samples, run.start_step))
    run.journal.masked.recount(run.pruner.keep)
    run.engine.train()
    run.progress.start(run.start_step, run.name)


def _check_parents(before: Sequence[dict[str, str]], now: list[Parent]) -> None:
    """Refuse to continue with other weights behind the same names."""
    old = {parent["role"]: parent["fingerprint"] for parent in before}
    for parent in now:
        if old.get(parent.role) != parent.fingerprint:
            raise ValueError(
                f"the {parent.role} {parent.name} holds other weights than when this run began; put the old ones back, "
                "or start anew in another --run-dir"
            )


def _warn_of_other_surroundings(folder: RunFolder, config: TrainingConfig) -> None:
    """Versions, machine, threads, and how work is divided decide the last bits of a result."""
    then = read_json(folder.config) if folder.has_started() else {}
    if then:
        then["division"] = {"ranks": then["world_size"], **division(then["config"])}
    now = {"ranks": dist.world_size(), **division(config.model_dump(mode="json"))}
    for key, value in (("versions", versions()), ("hardware", hardware()), ("division", now)):
        changed = differences(then.get(key, value), value)
        if changed:
            LOG.warning("not the %s that this run began with, so last bits may differ: %s", key, "; ".join(changed))
