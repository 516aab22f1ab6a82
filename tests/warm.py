"""Python processes that begin with torch, transformers and DeepSpeed imported: forked from one that did nothing else.

The imports take five seconds, longer than most of what tests start. A forked process has a pid, an environment, files,
a folder, signals and an exit status of its own, and ends as any other does. It is forked from one of two parents in
turn, so that ranks, and a run and its continuation, differ in the seed of their hashes as started ones do: what depends
on the order of a set shows.
"""

import contextlib
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
from itertools import cycle
from pathlib import Path

PARENTS = 2
LARGEST = 1 << 17
"""Bytes of one request, above all an environment."""


class Forked:
    """What tests use of `subprocess.Popen`, for a process that is the child of another."""

    def __init__(self, reports):
        self._reports, self.returncode = reports, None
        self.pid = self._read()

    def _read(self):
        return struct.unpack("i", os.read(self._reports, 4))[0]

    def wait(self, timeout=None):
        """Its exit status, which is negative if a signal ended it."""
        if self.returncode is None:
            if not select.select([self._reports], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            self.returncode = os.waitstatus_to_exitcode(self._read())
            os.close(self._reports)
        return self.returncode

    def poll(self):
        """Its exit status, or None."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number):
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """At once."""
        self.send_signal(signal.SIGKILL)


@functools.cache
def possible():
    """Whether processes can be forked here: those of a machine with a GPU could not use it."""
    import torch

    return sys.platform == "linux" and not torch.cuda.is_available()


@functools.cache
def _parents():
    """Each parent with the channel to it, in turn; they end with this process."""
    parents = []
    for _ in range(PARENTS):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, __file__, str(theirs.fileno())]
        path = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        own = {"env": {**os.environ, **path}, "pass_fds": [theirs.fileno()], "stdin": subprocess.DEVNULL}
        parents.append((subprocess.Popen(command, **own), ours))
        theirs.close()
    return cycle(parents)


def start(program, arguments, *, cwd, env, stdout, stderr, process_group=None):
    """Run a Python file in a new process, as `subprocess.Popen` does; its input is empty."""
    request = {"argv": [str(program), *map(str, arguments)], "cwd": str(cwd), "env": env, "group": process_group}
    reading, writing = os.pipe()
    _, channel = next(_parents())
    with open(os.devnull) as nothing:
        files = [nothing.fileno(), stdout.fileno(), stderr.fileno(), writing]
        socket.send_fds(channel, [json.dumps(request).encode()], files)
    os.close(writing)
    return Forked(reading)


def _serve(channel):
    """Fork at every request; returns, in the new process, the program to run."""
    signal.signal(signal.SIGCHLD, _reap)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        request, files, *_ = socket.recv_fds(channel, LARGEST, 4)
        if not request:
            sys.exit()
        if os.fork() == 0:
            channel.close()
            return _become(json.loads(request), files)
        for file in files:
            os.close(file)


def _reap(*_):
    """Let children go that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _become(request, files):
    """Fork once more, wait and tell how it ended; returns in the last one, which has become what was asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *standard, reports = files
    ready, go = os.pipe()
    if pid := os.fork():
        if request["group"] is not None:
            os.setpgid(pid, request["group"] or pid)
        os.write(reports, struct.pack("i", pid))
        os.close(go)
        os.write(reports, struct.pack("i", os.waitpid(pid, 0)[1]))
        os._exit(0)
    os.close(go)
    os.read(ready, 1)  # until the group is set
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate(standard):
        os.dup2(file, number)
    for file in (*files, ready):
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["argv"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    return sys.argv[0]


if __name__ == "__main__":
    CHANNEL = socket.socket(fileno=int(sys.argv[1]))
    import ofa.train  # noqa: F401

    with contextlib.suppress(ImportError):  # what DeepSpeed imports as its first engine is made takes a second more
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    gc.freeze()  # or collecting garbage would copy the pages that are shared
    runpy.run_path(_serve(CHANNEL), run_name="__main__")
