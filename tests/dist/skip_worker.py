"""One rank of test_skips: updates that are skipped in the midst of others, against a run that never met them, as JSON.

Run with one argument per case: "STAGE PRECISION hard|retain".
"""

import json
import sys
from pathlib import Path

import torch

from ofa import dist
from ofa.engine.process import start
from tests.dist.elastic_worker import Training, parse
from tests.dist.mask_worker import share_of_loss
from tests.processes import end_rank

BEFORE, AFTER = 7, 12
"""The bad batches come at step 7; masks are chosen at 0, 5 and 10."""

LARGEST = 1e4
"""Gradient norm above which an update is declined; those of the good batches are far below."""


def bad_batch(training: Training, spoil) -> bool:
    """Try an update of which the last rank's last micro-batch is spoilt; whether it was applied."""
    last = training.engine.accumulation - 1
    for number in range(training.engine.accumulation):
        inputs = torch.ones(2, 66)
        if number == last and dist.rank() == dist.world_size() - 1:
            inputs = spoil(inputs)
        training.engine.backward(share_of_loss(training.engine, inputs.to(training.dtype)))
        training.engine.advance()
    applied = training.engine.step_was_applied()
    training.pruner.enforce()
    return applied


def one_is_not_a_number(inputs: torch.Tensor) -> torch.Tensor:
    """In a single place."""
    inputs[0, 3] = float("nan")
    return inputs


def differs(one: dict, other: dict) -> list[str]:
    """Names of what is not equal to the bit."""
    return [name for name, value in one.items() if not torch.equal(value, other[name])]


def skip(case: str, judged: bool) -> dict:
    """Both kinds of bad batches where norms are judged; else DeepSpeed alone decides."""
    accepts = LARGEST.__gt__ if judged else None
    undisturbed, training = (Training(parse(case), accepts=accepts) for _ in range(2))
    undisturbed.run(0, BEFORE)
    training.run(0, BEFORE)
    before = training.state()
    applied = [bad_batch(training, one_is_not_a_number)]
    if judged:
        applied.append(bad_batch(training, lambda inputs: inputs * 1e6))
    report = {"applied": applied, "moved": differs(before, training.state()), "live": training.live_is_masked()}
    undisturbed.run(BEFORE, AFTER)
    training.run(BEFORE, AFTER)
    ours, theirs = training.state(), undisturbed.state()
    report |= {"differs": differs(theirs, ours), "settings": training.settings() == undisturbed.settings()}
    report["goes_on"] = any(name.startswith("master") for name in differs(before, ours))
    return report


if __name__ == "__main__":
    start(parse(sys.argv[1]).config())
    reports = {}
    for one in sys.argv[1:]:
        reports |= {f"{one} alone": skip(one, judged=False), f"{one} judged": skip(one, judged=True)}
    Path(f"skips-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
