"""From the loop's tensors to metrics lines: one collective and two device reads per line (the sums, and the gradient
norm), none between lines."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ofa import dist
from ofa.metrics import MetricsLog
from ofa.progress import Progress
from ofa.pruning.pruner import MaskChurn
from ofa.recipe import Knobs


class NotFinite(ValueError):
    """The loss is no longer a number."""


class Meter:
    """Tokens and time since the last reading; pauses do not count."""

    def __init__(self, flops_per_token: float, peak_flops: float):
        """
        Args:
            flops_per_token: of training one token (`ofa.flops.train_flops`).
            peak_flops: of one rank's device, per second.
        """
        self.peak_flops = peak_flops
        self._flops_share = flops_per_token / (peak_flops * dist.world_size())
        self._tokens = 0
        self._all_tokens = 0
        self._all_seconds = 0.0
        self._since = time.perf_counter()

    def count(self, tokens: int) -> None:
        """The tokens of one step's global batch."""
        self._tokens += tokens

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Time that is not training: validation, checkpoints."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """`tokens_per_second` over all ranks and `mfu`, since the last reading."""
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        rate = self._tokens / seconds
        self._all_tokens, self._all_seconds = self._all_tokens + self._tokens, self._all_seconds + seconds
        self._tokens, self._since = 0, now
        return {"tokens_per_second": rate, "mfu": rate * self._flops_share}

    def mean_rate(self) -> float | None:
        """Tokens per second over all readings; None if nothing was trained."""
        return self._all_tokens / self._all_seconds if self._all_tokens else None


class MaskedShare:
    """Sparsity as counted in the masks: of the encoder, of the scope, of the model. Weights without a mask live."""

    def __init__(self, scope: Mapping[str, int], encoder: Collection[str], model_size: int):
        """
        Args:
            scope: weights of each scoped tensor.
            encoder: names of the scope without the pooler.
            model_size: weights of the model without its heads.
        """
        self._scope_size = sum(scope.values())
        self._encoder = set(encoder)
        self._encoder_size = sum(scope[name] for name in encoder)
        self._model_size = model_size
        names = ("sparsity", "encoder_sparsity", "scope_sparsity", "model_sparsity")
        self._counted: dict[str, float] = {name: 0.0 for name in names}

    def recount(self, keep: Mapping[str, Tensor]) -> None:
        """Count anew; reads the device once."""
        if not keep:
            return
        counts = torch.stack([mask.sum() for mask in keep.values()]).tolist()
        dropped = {name: mask.numel() - kept for (name, mask), kept in zip(keep.items(), counts, strict=True)}
        scope = sum(dropped.values()) / self._scope_size
        encoder = sum(count for name, count in dropped.items() if name in self._encoder) / max(1, self._encoder_size)
        self._counted = {
            "sparsity": scope,
            "encoder_sparsity": encoder,
            "scope_sparsity": scope,
            "model_sparsity": sum(dropped.values()) / self._model_size,
        }

    def counted(self) -> dict[str, float]:
        """The last count; zeros for a dense run."""
        return self._counted


class Journal:
    """Writes the training loop's lines."""

    def __init__(
        self, metrics: MetricsLog, progress: Progress, meter: Meter, masked: MaskedShare, *, accuracy: str | None
    ):
        """
        Args:
            accuracy: name in a line of the share of right predictions; None: there is none.
        """
        self.metrics = metrics
        self.meter = meter
        self.masked = masked
        self._progress = progress
        self._accuracy = accuracy

    def log(
        self,
        knobs: Knobs,
        terms: Mapping[str, Tensor],
        counted: int,
        *,
        churn: MaskChurn | None,
        grad_norm: float | None,
        skipped: int,
        more: Mapping[str, float] | None = None,
    ) -> None:
        """Write the line of step knobs.step (a collective call).

        Args:
            knobs: of the step.
            terms: this rank's sums of the loss terms, `loss` and, for an accuracy, `correct` among them.
            counted: predictions of the global batch.
            churn: of the masks, if they were refreshed.
            grad_norm: of the update.
            skipped: updates not applied so far.
            more: what the run adds.

        Raises:
            NotFinite: the loss is NaN or infinite.
        """
        summed = dist.sum_over_ranks(terms)
        if not math.isfinite(summed["loss"]):
            raise NotFinite(
                f"the loss of step {knobs.step} is {summed['loss']}: the run has diverged and was stopped; the last "
                "checkpoint is kept. Lower optimizer.lr or raise schedule.warmup_steps"
            )
        line: dict[str, Any] = {"step": knobs.step, "lr": knobs.lr, "loss": summed.pop("loss")}
        if self._accuracy is not None:
            line[self._accuracy] = summed.pop("correct") / counted
        line |= {**summed, **(more or {})}
        line |= {"target_sparsity": knobs.sparsity, **self.masked.counted(), **asdict(churn or MaskChurn())}
        line |= {"grad_norm": grad_norm, "skipped": skipped, **self.meter.read()}
        self.metrics.append(line)
        self._progress.show(line)
