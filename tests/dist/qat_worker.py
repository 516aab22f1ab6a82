"""One rank of test_qat: trains a small sparse classifier in 8 bits under the engine, meets a bad batch, and reports its
ranges after every update, as JSON.

Run with one argument per case: "STAGE PRECISION MICRO_SIZE".
"""

import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from ofa import dist
from ofa.config import QatConfig, parse
from ofa.data.task_batches import TaskBatch, TaskTotals
from ofa.downstream.qat.assemble import quantised
from ofa.downstream.qat.pruner import QatPruner, QatSchedule
from ofa.downstream.qat.training import QatTraining
from ofa.engine.engine import Engine
from ofa.engine.process import start
from ofa.models.adapters import scope
from ofa.pruning.lock import PatternLock, zeros_of
from ofa.recipe import Recipe
from ofa.sections.schedule import ScheduleConfig
from tests.processes import end_rank
from tests.task_parts import batch_of, random_rows, small_model

KIND, ROWS = "classification", 8
BEGIN, BAD, FREEZE, STEPS = 1, 3, 5, 7
"""Steps: before which forwards are float, before which a batch is spoilt, from which ranges stay, and the end. Up to
the first of them weights stay as they are, so that ranges are of equal weights however a batch was divided."""


class Case(NamedTuple):
    """What one group of ranks runs."""

    stage: int
    precision: str
    micro: int

    def config(self) -> QatConfig:
        """Published ranges of weights, so that these have a state too."""
        divided = {"zero_optimization": {"stage3_param_persistence_threshold": 0}} if self.stage == 3 else {}
        values = {
            "model": {"init": "none"},
            "task": {"name": "sst2"},
            "batch": {"global_size": ROWS, "micro_size": self.micro},
            "optimizer": {"lr": 1e-3},
            "engine": {
                "zero_stage": self.stage,
                "precision": self.precision,
                "threads": 1,
                "deepspeed": divided,
            },
            "quantization": {"preset": "published", "observer_constant": 0.3},
        }
        return parse(QatConfig, values, origin="test")


def parsed(case: str) -> Case:
    """`3 bf16 4`"""
    stage, precision, micro = case.split()
    return Case(int(stage), precision, int(micro))


def global_batch(step: int, micro: int) -> tuple[TaskTotals, list[TaskBatch]]:
    """The counts of 8 rows of many lengths, and this rank's micro-batches."""
    rows = random_rows(KIND, ROWS, seed=step)
    _, totals = batch_of(rows, KIND)
    size = dist.world_size()
    starts = range(dist.rank() * micro, ROWS, size * micro)
    return totals, [batch_of(rows, KIND, range(first, first + micro))[0] for first in starts]


class Training:
    """The parts of a run, without its data."""

    def __init__(self, case: Case):
        config = case.config()
        self.case = case
        model = small_model("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in scope(model).values():
                weight.mul_(torch.rand(weight.shape, generator=generator) > 0.7)
        scoped, keep = scope(model), zeros_of(scope(model))
        self.quantisers = quantised(model, config.quantization, dist.device())
        self.module = QatTraining(model.train(), KIND, config.objective, self.quantisers)
        self.engine = Engine(config, self.module, scoped)
        self.recipe = Recipe.of(ScheduleConfig(total_steps=STEPS, decay="constant"), config.optimizer.lr)
        lock = PatternLock(keep, scoped, self.engine.weights)
        self.pruner = QatPruner(lock, self.quantisers, QatSchedule(BEGIN, FREEZE), self.calibrate)

    @torch.no_grad()
    def calibrate(self):
        """On two global batches."""
        self.module.eval()
        with self.quantisers.calibrating():
            for number in range(2):
                for batch in global_batch(number, self.case.micro)[1]:
                    self.module(batch)
                self.quantisers.ranges.commit(1 / (number + 1))
        self.module.train()
        self.quantisers.ranges.begin()

    def update(self, step: int, factor: float = 1.0) -> bool:
        """Of one step; whether it was applied."""
        self.engine.set_lr(self.recipe.at(step).lr if step > BEGIN else 0.0)
        totals, batches = global_batch(step, self.case.micro)
        for batch in batches:
            loss, _ = self.engine(batch, totals, None, self.engine.loss_scale)
            self.engine.backward(loss * factor)
            self.engine.advance()
        return self.engine.step_was_applied()


def report_of(case: str) -> dict:
    """Ranges after each update, and what is to hold besides."""
    training = Training(parsed(case))
    ranges = training.quantisers.ranges
    report: dict = {"names": list(ranges.names), "ranges": [], "calibrated": []}
    for step in range(STEPS):
        training.pruner.before_step(training.recipe.at(step))
        report["calibrated"].append(ranges.calibrated)
        if step == BAD:
            before = ranges.values.clone()
            report["applied"] = training.update(step, math.nan)
            training.pruner.enforce()
            ranges.commit()
            report["moved_by_a_skip"] = not torch.equal(before, ranges.values)
        assert training.update(step)
        training.pruner.after_step(training.recipe.at(step + 1))
        report["ranges"].append(ranges.values.tolist() if ranges.calibrated else None)
    masters = {name: training.engine.weights.full_master(name) for name in training.pruner.keep}
    report["alive"] = sum(int(masters[name][~keep].count_nonzero()) for name, keep in training.pruner.keep.items())
    state = training.pruner.state_dict()
    report["widest"] = {name: float(value) for name, value in state["quantisation"]["weights"].items()}
    again = Training(parsed(case))
    again.pruner.load_state_dict(state, again.recipe.at(STEPS))
    loaded = again.pruner.state_dict()["quantisation"]
    report["loaded_differs"] = str(loaded) != str(state["quantisation"])
    return report


if __name__ == "__main__":
    start(parsed(sys.argv[1]).config())
    reports = [report_of(case) for case in sys.argv[1:]]
    Path(f"rank-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
