"""Real processes for tests: entry scripts, and groups of ranks over gloo."""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests import warm

CHECKOUT = Path(__file__).resolve().parents[1]
TIMEOUT = 240


def environment(**extra):
    """This environment with one thread a process, and no ranks of an outer group."""
    dropped = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")
    clean = {key: value for key, value in os.environ.items() if key not in dropped}
    return {**clean, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT), **extra}


def start(program, arguments, **own):
    """Start a Python file, with its libraries imported where that is possible."""
    return (warm.start if warm.possible() else start_cold)(program, arguments, **own)


def start_cold(program, arguments, **own):
    """Start a Python file in a process that is a child of this one."""
    command = [sys.executable, str(program), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, **own)


def run(program, *arguments, cwd, check=True, **extra):
    """Run a Python file to its end, with its libraries imported where that is possible."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = start(program, arguments, cwd=cwd, env=environment(**extra), stdout=out, stderr=err)
        try:
            process.wait(timeout=TIMEOUT)
        finally:
            process.kill()
        said = [file.seek(0) or file.read().decode() for file in (out, err)]
    command = [sys.executable, str(program), *map(str, arguments)]
    return checked(subprocess.CompletedProcess(command, process.returncode, *said), check)


def script(name, *arguments, cwd, check=True, ranks=1, cold=False, **extra):
    """Run `launch/<name>` as a user does; returns the finished process. One of several ranks, and one that is to be
    cold, begins with nothing imported."""
    program = CHECKOUT / "launch" / name
    if ranks == 1 and not cold:
        return run(program, *arguments, cwd=cwd, check=check, **extra)
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    return finished([*command, str(program), *map(str, arguments)], cwd=cwd, check=check, **extra)


def start_script(name, *arguments, cwd, output):
    """Start `launch/<name>` in a process group of its own; the caller ends it."""
    with open(output, "ab") as out:
        own = {"cwd": cwd, "env": environment(), "stdout": out, "stderr": out, "process_group": 0}
        return start(CHECKOUT / "launch" / name, arguments, **own)


def start_ranks(program, *arguments, cwd, outputs, begin=start_cold):
    """Start a Python file on as many ranks as there are output files, without a launcher, in a process group of their
    own whose number is the first one's pid; the caller ends them."""
    port = str(free_port())
    world = {"WORLD_SIZE": str(len(outputs)), "LOCAL_WORLD_SIZE": str(len(outputs))}
    started = []
    try:
        for rank, output in enumerate(outputs):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            group = started[0].pid if started else 0
            env = environment(**world, **place)
            with open(output, "wb") as out:
                own = {"cwd": cwd, "env": env, "stdout": out, "stderr": out, "process_group": group}
                started.append(begin(program, arguments, **own))
    except BaseException:  # above all Ctrl-C
        for process in started:
            process.kill()
        raise
    return started


def free_port():
    """A port that nobody listens at, below those that the system gives to connections: one of these may be taken before
    the ranks come to listen at it."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def ranks(program, *arguments, number, cwd):
    """Run a Python file on `number` ranks; as soon as one fails, all are ended."""
    with Group(program, *arguments, number=number, cwd=cwd) as group:
        group.wait_for(lambda: all(process.poll() == 0 for process in group.processes), may_end=True)


def reports(program, *cases, number, cwd):
    """Run a Python file on `number` ranks, each of which writes a list with a report of each case to rank-N.json; what
    each rank reports, by case."""
    ranks(program, *cases, number=number, cwd=cwd)
    of_ranks = [json.loads((cwd / f"rank-{rank}.json").read_text()) for rank in range(number)]
    return {case: [of_rank[place] for of_rank in of_ranks] for place, case in enumerate(cases)}


class Group:
    """The ranks of one run, as processes without a launcher, whose statuses can be read one by one."""

    def __init__(self, program, *arguments, number, cwd):
        self.out = [cwd / f"rank-{rank}.out" for rank in range(number)]
        self.processes = start_ranks(program, *arguments, cwd=cwd, outputs=self.out, begin=start)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """No rank outlives its test, whatever state it is in."""
        for process in self.processes:
            process.kill()
            process.wait()

    def wait_for(self, reached, may_end=False):
        """Until `reached()`; all ranks must still be there, or may have ended well."""
        allowed = (None, 0) if may_end else (None,)
        began = time.monotonic()
        while not reached():
            assert all(process.poll() in allowed for process in self.processes), self.said()
            assert time.monotonic() - began < TIMEOUT, self.said()
            time.sleep(0.002)

    def statuses(self, *, without=None):
        """Exit statuses by rank, once all have ended, but for one rank that may stay."""
        awaited = [process for rank, process in enumerate(self.processes) if rank != without]
        return [process.wait(timeout=TIMEOUT) for process in awaited]

    def said(self):
        """What the ranks printed."""
        return "\n".join(path.read_text() for path in self.out)


def end_rank():
    """End this process, one of several ranks, now: at the interpreter's end a thread of gloo that has yet to let go of
    a tensor would abort it, also after `destroy_process_group` (pytorch issue 190489)."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def finished(command, *, cwd, check=True, **extra):
    """Run a command to its end; a failure shows its output."""
    done = subprocess.run(
        command, cwd=cwd, env=environment(**extra), capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    return checked(done, check)


def answered_no(code, home):
    """What Python code prints, and asks, in a process that has `n` typed in for every question; `home` is for files of
    transformers."""
    line = [sys.executable, "-c", code]
    own = {"input": "n\n" * 9, "env": environment(HF_HOME=str(home)), "capture_output": True, "text": True}
    return checked(subprocess.run(line, cwd=home, timeout=TIMEOUT, **own)).stdout


def checked(done, check=True):
    """The finished process; a failure shows its output."""
    said = f"{' '.join(done.args)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    assert not check or done.returncode == 0, said
    return done
