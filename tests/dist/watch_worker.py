"""One rank of test_watch: steps with one collective each under the watch, and what befalls one of them at its turn.

watch_worker.py PATIENCE EVENT RANK    (EVENT: none, error, exit, slow)
"""

import sys
import threading
import time
from pathlib import Path

import torch
import torch.distributed

from ofa import dist
from ofa.board import open_board
from ofa.stop import StopRequest
from ofa.watch import Watch
from tests.processes import end_rank

TURN, LAST = 20, 40
"""The step at which it happens, and the last one of an event that lets the run end."""


def befalls(event, patience):
    """What happens to one rank."""
    if event == "error":
        raise ValueError("this disk is\nfull")
    if event == "slow":
        time.sleep(1.5 * patience)


def steps(patience, event, chosen):
    """The work; without an event it has no end."""
    step = 0
    while event == "none" or step < LAST:
        Path(f"step-{dist.rank()}").write_text(str(step))
        torch.distributed.all_reduce(torch.ones(1))
        if step == TURN and dist.rank() == chosen:
            befalls(event, patience)
        if step == TURN and event == "exit":
            sys.exit(1)
        time.sleep(0.02)
        step += 1


def main(patience, event, chosen):
    """As a training run does it."""
    watch, request = Watch(open_board(), patience), StopRequest(Path("stop"))
    request.install()
    try:
        steps(patience, event, chosen)
    except BaseException as error:
        watch.failed(error)
        raise
    finally:
        watch.close()
        request.uninstall()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    main(float(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    for thread in set(threading.enumerate()) - {threading.current_thread()}:
        thread.join(10.0)  # one that has been told to end may take a moment on a busy machine
    print("threads:", sorted(thread.name for thread in threading.enumerate()))
    end_rank()
