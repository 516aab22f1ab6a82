"""One rank of test_stop: steps of unequal length with one collective each, stopped again and again, as JSON.

In round n the rank n mod ranks asks after a random number of steps; each rank reports the step after which it stopped.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed

from ofa import dist
from ofa.board import open_board
from ofa.stop import StopAgreement, StopRequest


def stopped_after(number):
    """[step after which this rank stopped, first step at which a rank was asked]"""
    shared, own = random.Random(number), random.Random(1000 * number + dist.rank())
    request = StopRequest(Path("no-file"))
    request.install()
    stop = StopAgreement(request, open_board())
    asked_at, step = shared.randrange(1, 8), 0
    while True:
        time.sleep(own.random() * 0.004)
        if dist.rank() == number % dist.world_size() and step == asked_at:
            os.kill(os.getpid(), signal.SIGUSR2)
        gradient = torch.ones(1)
        torch.distributed.all_reduce(gradient)
        step += 1
        if stop.is_due(step):
            request.uninstall()
            dist.barrier()  # rank 0 serves the board until all have looked
            return [step, asked_at]


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    reports = [stopped_after(number) for number in range(int(sys.argv[1]))]
    Path(f"rank-{dist.rank()}.json").write_text(json.dumps(reports))
    torch.distributed.destroy_process_group()
