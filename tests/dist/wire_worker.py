"""One rank of test_wire: counts what one dense step sends, as JSON.

Run with one argument per case: "STAGE PRECISION COMMUNICATION ACCUMULATION".
"""

import json
import sys
from pathlib import Path

import torch

from ofa import dist
from ofa.config import RunConfig, parse
from ofa.engine.engine import Engine
from ofa.engine.process import start
from tests.dist.collectives_worker import Payload
from tests.dist.mask_worker import Case, Net, share_of_loss
from tests.processes import end_rank

STEPS = 3
"""Of which the last is counted."""


def config(stage: str, precision: str, communication: str, accumulation: str) -> RunConfig:
    """A dense run."""
    values = Case(int(stage), precision, "hard", False).config().model_dump()
    values["batch"] = {"global_size": 2 * int(accumulation) * dist.world_size(), "micro_size": 2}
    values["pruning"] = None
    if communication != "default":
        values["engine"]["deepspeed"]["communication_data_type"] = communication
    return parse(RunConfig, values, origin="test")


def measure(case: str) -> dict[str, list[int]]:
    """{name: [count, bytes]} of the collectives of one step."""
    torch.manual_seed(0)
    net = Net()
    wrapped = Engine(config(*case.split()), net, {name: p for name, p in net.named_parameters() if p.dim() > 1})
    dtype = torch.bfloat16 if "bf16" in case.split()[1] else torch.float32
    payload = Payload()
    for _ in range(STEPS):
        payload = Payload()
        wrapped.set_lr(1e-3)
        with payload:
            for _ in range(wrapped.accumulation):
                wrapped.backward(share_of_loss(wrapped, torch.ones(2, 66, dtype=dtype)))
                wrapped.advance()
    return {name: [count, payload.bytes[name]] for name, count in payload.seen.items()}


if __name__ == "__main__":
    start(config("1", "fp32", "default", "1"))
    reports = {case: measure(case) for case in sys.argv[1:]}
    Path(f"rank-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
