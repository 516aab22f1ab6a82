"""One rank of test_wire, on a host of its own: what a step calls for, and what leaves the host for it, as JSON.

Run with one argument per case, as `tests/dist/wire_worker.py`.
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks.hosts import sent_from
from ofa import dist
from ofa.engine.engine import Engine
from ofa.engine.process import start
from tests.dist.collectives_worker import Payload
from tests.dist.mask_worker import Net, share_of_loss
from tests.dist.wire_worker import config
from tests.processes import end_rank

INNER, OUTER = 512, 1024
WARM, COUNTED = 3, 5
"""Steps before, and those whose bytes are counted."""


class Wide(Net):
    """A million weights: less of what is counted is not theirs."""

    def __init__(self):
        nn.Sequential.__init__(self, nn.Linear(INNER, OUTER), nn.GELU(), nn.Linear(OUTER, INNER))


def step(wrapped, dtype):
    """One update."""
    wrapped.set_lr(1e-3)
    for _ in range(wrapped.accumulation):
        wrapped.backward(share_of_loss(wrapped, torch.ones(2, INNER, dtype=dtype)))
        wrapped.advance()


def sent():
    """Bytes that have left this host, once both ranks are here."""
    dist.barrier()
    return sent_from("".join(Path("/proc/self/net", name).read_text() for name in ("dev", "snmp")))


def measure(case):
    """Bytes of one step that each collective is called with, and those that leave this host."""
    torch.manual_seed(0)
    net = Wide()
    wrapped = Engine(config(*case.split()), net, {name: p for name, p in net.named_parameters() if p.dim() > 1})
    dtype = torch.bfloat16 if "bf16" in case.split()[1] else torch.float32
    payload = Payload()
    for _ in range(WARM):
        payload = Payload()
        with payload:
            step(wrapped, dtype)
    before = sent()
    for _ in range(COUNTED):
        step(wrapped, dtype)
    return {"called": dict(payload.bytes), "sent": (sent() - before) / COUNTED}


if __name__ == "__main__":
    start(config("1", "fp32", "default", "1"))
    reports = {case: measure(case) for case in sys.argv[1:]}
    Path(f"rank-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
