"""One rank of test_memory: the bytes of every tensor that lives after a backward, as JSON.

Run with one argument per case: "STAGE PRECISION".
"""

import gc
import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from ofa import dist
from ofa.engine.engine import Engine
from ofa.engine.process import start
from tests.dist.wire_worker import config
from tests.processes import end_rank

WIDTH = 512


class Net(nn.Sequential):
    """Large beside its activations; gives the loss itself."""

    def __init__(self):
        super().__init__(*(nn.Linear(WIDTH, WIDTH) for _ in range(8)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Of reproducing the inputs."""
        return ((super().forward(inputs) - inputs) ** 2).mean()


def held() -> int:
    """Bytes of tensors that stay: gloo's thread drops the buffer it has summed some time after the sum is there."""
    readings = [_bytes_of_tensors()]
    for _ in range(10):
        time.sleep(0.05)
        readings.append(_bytes_of_tensors())
    return min(readings)


def _bytes_of_tensors() -> int:
    """Of the storages of all tensors, and of their gradients."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if type(one) in (Tensor, nn.Parameter)]
    tensors += [one.grad for one in tensors if one.is_leaf and one.grad is not None]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


def measure(case: str) -> list[int]:
    """[parameters, bytes in the second step before its update]."""
    before = held()
    net = Net()
    stage, precision = case.split()
    wrapped = Engine(config(stage, precision, "default", "1"), net, {"0.weight": net.get_parameter("0.weight")})
    wrapped.set_lr(1e-3)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    for step in range(2):
        wrapped.backward(wrapped(torch.ones(1, WIDTH, dtype=dtype)))
        found = held() - before
        if step == 0:
            wrapped.advance()
    size = sum(p.numel() for p in net.parameters())
    wrapped.close()
    return [size, found]


if __name__ == "__main__":
    start(config("1", "fp32", "default", "1"))
    reports = {case: measure(case) for case in sys.argv[1:]}
    Path(f"rank-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
