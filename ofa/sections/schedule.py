"""The sections of everything that changes with the step: learning rate and pruning."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ofa.sections.base import Section

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class OptimizerConfig(Section):
    """AdamW; weight decay spares biases and LayerNorm."""

    lr: float = Field(gt=0.0)
    """Peak learning rate."""

    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay of the first and second moment."""

    eps: float = Field(default=1e-8, gt=0.0)
    """Added to the root of the second moment."""

    weight_decay: float = Field(default=0.01, ge=0.0)
    """Decoupled weight decay."""

    max_grad_norm: float = Field(default=1.0, ge=0.0)
    """Clips the norm of the whole gradient; 0 switches clipping off."""

    spike_ratio: float | None = Field(default=None, gt=1.0)
    """Skip an update whose gradient norm is above this many times the median of the last 100 applied ones; null: never.
    Reads the device once more a step. A gradient that is not finite is always skipped."""

    max_skipped: int = Field(default=10, ge=0)
    """Skipped updates in a row that the run goes past; one more ends it."""


class RewindConfig(Section):
    """What jumps back at a mask refresh, and how far: see `ofa.recipe`."""

    policy: Literal["prune_ofa", "learning_rate", "weights"] = "prune_ofa"
    """`prune_ofa` (Prune Once for All) holds the rate near its peak inside the window and decays it afterwards.
    `learning_rate` (Renda et al. 2020) trains to the end of the schedule at `start`, then prunes and replays the
    schedule's last `frequency` steps, round after round. `weights` (Renda; Chen et al. 2020) does the same and also
    puts every weight back to its value at step `start - frequency`, that is its first value if they are equal; the
    checkpoint of that step is always written and kept. Both prune once at the beginning of each round."""

    start: int = Field(ge=0)
    """First step of the pruning window; the first pruning of the round-based policies."""

    end: int = Field(gt=0)
    """First step after it; `total_steps` for the round-based policies."""

    frequency: int = Field(gt=0)
    """Steps after which the clock of the learning rate jumps back: the length of a round."""

    cap_at_peak: bool = False
    """Keep the rate at or below its peak; the published schedule exceeds it by T'/(T' - W) when the warm-up lies
    inside the window."""


class ScheduleConfig(Section):
    """Learning rate as a function of the step, in applied optimizer steps."""

    total_steps: int = Field(ge=0)
    """Optimizer steps of the run; 0 prunes and exports without training."""

    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up from 0."""

    decay: Literal["linear", "constant"] = "linear"
    """What follows the warm-up: linear decay to 0 at `total_steps`, or the peak."""

    rewind: RewindConfig | None = None
    """Rewinding of the learning rate, and by policy of the weights; null: none."""

    @property
    def rewind_target(self) -> int | None:
        """Step whose weights come back at every refresh; None: they never do."""
        rewind = self.rewind
        return rewind.start - rewind.frequency if rewind is not None and rewind.policy == "weights" else None

    @model_validator(mode="after")
    def _windows_fit(self) -> ScheduleConfig:
        if self.total_steps and self.warmup_steps >= self.total_steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below total_steps {self.total_steps}")
        if self.rewind is None:
            return self
        start, end = self.rewind.start, self.rewind.end
        if self.decay != "linear":
            raise ValueError("rewind needs decay linear")
        if not start < end <= self.total_steps:
            raise ValueError(f"rewind needs start < end <= total_steps, found {start}, {end}, {self.total_steps}")
        if self.rewind.policy != "prune_ofa":
            return self._rounds_fit(self.rewind)
        if self.total_steps - (end - start) <= self.warmup_steps:
            raise ValueError("rewind leaves no step after the warm-up: total_steps - (end - start) <= warmup_steps")
        return self

    def _rounds_fit(self, rewind: RewindConfig) -> ScheduleConfig:
        if rewind.end != self.total_steps or (rewind.end - rewind.start) % rewind.frequency:
            raise ValueError(
                f"rewind policy {rewind.policy} makes whole rounds to the end of the run: total_steps and rewind.end "
                f"must be start + n * frequency = {rewind.start} + n * {rewind.frequency}, found {self.total_steps} "
                f"and {rewind.end}"
            )
        if not rewind.frequency <= rewind.start or self.warmup_steps >= rewind.start:
            raise ValueError(
                f"rewind policy {rewind.policy} replays the last {rewind.frequency} steps (frequency) of the first "
                f"{rewind.start} (start), which must be at least as many and more than warmup_steps {self.warmup_steps}"
            )
        return self


PATTERN = r"^(unstructured|[1-9]\d*:[1-9]\d*|[1-9]\d*x[1-9]\d*)$"


def parse_pattern(text: str) -> tuple[Literal["unstructured", "n_of_m", "block"], int, int]:
    """`unstructured`, `N:M` or `RxC` as its kind and its two numbers (1 and 1 for unstructured)."""
    if text == "unstructured":
        return "unstructured", 1, 1
    first, second = map(int, re.split("[:x]", text))
    return "n_of_m" if ":" in text else "block", first, second


class _Target(Section):
    """What a group of tensors is pruned to."""

    sparsity: float = Field(ge=0.0, lt=1.0)
    """Final fraction of zeros. With a pattern N:M it is 1 - N/M."""

    allocation: Literal["uniform", "erk", "global"] = "uniform"
    """How the zeros are divided among tensors: `uniform`, the same fraction in each; `erk`, density proportional to
    (rows + columns) / (rows * columns) (Evci et al. 2020, section 3); `global`, all units ranked together."""

    @staticmethod
    def check_pattern(pattern: str, sparsity: float, allocation: str) -> None:
        """Hold a pattern against the sparsity and allocation it is to be used with.

        Raises:
            ValueError: they contradict each other.
        """
        kind, kept, group = parse_pattern(pattern)
        if kind != "n_of_m":
            return
        if not kept < group:
            raise ValueError(f"pattern {pattern} keeps {kept} of {group}: N must be below M")
        if sparsity and not math.isclose(sparsity, 1 - kept / group, abs_tol=1e-6):
            raise ValueError(f"pattern {pattern} means sparsity {1 - kept / group:g}, found {sparsity:g}")
        if allocation == "erk":
            raise ValueError(f"allocation erk gives every tensor another sparsity, and pattern {pattern} allows one")


class OverrideConfig(_Target):
    """Another target for some tensors."""

    match: str
    """Regular expression searched in the parameter's name, for example `layer\\.0\\.` or `attention`; the first
    override that matches a tensor holds."""

    pattern: str | None = Field(default=None, pattern=PATTERN)
    """As `pruning.pattern`; null: that."""

    @model_validator(mode="after")
    def _match_is_a_pattern(self) -> OverrideConfig:
        try:
            re.compile(self.match)
        except re.error as error:
            raise ValueError(f"match is no regular expression: {self.match!r}: {error}") from None
        return self


class PruningConfig(_Target):
    """Gradual magnitude pruning of the scope that the architecture's adapter names."""

    pattern: str = Field(default="unstructured", pattern=PATTERN)
    """`unstructured`: single weights. `N:M`: N weights kept in every M along the input dimension. `RxC`: blocks of R
    outputs by C inputs, ranked by the sum of their magnitudes; a tensor's shape must be a multiple."""

    overrides: list[OverrideConfig] = []
    """Tensors with a target of their own; the ramp's shape is the same for all."""

    ramp: Literal["cubic", "geometric"] = "cubic"
    """How sparsity grows from `ramp_start` to `ramp_end`: `cubic` (Zhu and Gupta 2018); `geometric`: every refresh
    from `ramp_start` on takes the same share of what is left, so that the last one up to `ramp_end` reaches
    `sparsity` (iterative magnitude pruning)."""

    initial_sparsity: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Fraction at `ramp_start`."""

    ramp_start: int = Field(default=0, ge=0)
    """Step at which the ramp begins (t0)."""

    ramp_end: int = Field(ge=0)
    """Step at which it reaches `sparsity` (t1); equal to `ramp_start` prunes in one shot."""

    begin: int | None = Field(default=None, ge=0)
    """First step at which masks may be refreshed; null: `ramp_start`."""

    end: int | None = Field(default=None, ge=0)
    """Last step at which masks may be refreshed; null: `ramp_end`."""

    frequency: int = Field(gt=0)
    """Steps between two refreshes."""

    regrow: bool = True
    """true: pruned weights keep a dense copy in the fp32 master and may come back until the last refresh (the
    published method). false: they are zeroed together with their optimizer moments and stay zero."""

    ties: Literal["index", "drop_all"] = "index"
    """Equal magnitudes at the threshold: `index` drops the lowest indices first, so that counts are exact;
    `drop_all` drops every one of them, as the published code does."""

    @model_validator(mode="after")
    def _patterns_fit(self) -> PruningConfig:
        for target in (self, *self.overrides):
            pattern = target.pattern or self.pattern
            self.check_pattern(pattern, target.sparsity, target.allocation)
            if self.ties == "drop_all" and (pattern != "unstructured" or target.allocation != "uniform"):
                raise ValueError("ties drop_all is the published rule for single weights ranked per tensor; use index")
        return self

    @model_validator(mode="after")
    def _ramp_fits(self) -> PruningConfig:
        if self.initial_sparsity > self.sparsity:
            raise ValueError(f"initial_sparsity {self.initial_sparsity} exceeds sparsity {self.sparsity}")
        if self.ramp_end < self.ramp_start:
            raise ValueError(f"ramp_end {self.ramp_end} lies before ramp_start {self.ramp_start}")
        if self.last_allowed < self.first_allowed:
            raise ValueError(f"pruning end {self.last_allowed} lies before its begin {self.first_allowed}")
        return self

    @property
    def first_allowed(self) -> int:
        """First step of the refresh grid."""
        return self.ramp_start if self.begin is None else self.begin

    @property
    def last_allowed(self) -> int:
        """No refresh happens after this step."""
        return self.ramp_end if self.end is None else self.end

    @property
    def last_refresh(self) -> int:
        """The last step of the refresh grid."""
        return self.last_allowed - (self.last_allowed - self.first_allowed) % self.frequency
