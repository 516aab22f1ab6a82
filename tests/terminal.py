"""A terminal with one command in it, as a user has: Ctrl-C reaches all that was started there, and closing it hangs up
on all of that."""

import os
import pty
import select
import signal
import sys
import time

from tests.processes import CHECKOUT, TIMEOUT, environment

SUBMIT = (str(CHECKOUT / "launch" / "submit.py"),)


class Terminal:
    """`with Terminal(..., cwd=...) as terminal:` runs `launch/submit.py`, or another program, in one."""

    def __init__(self, *arguments, cwd, program=SUBMIT):
        """
        Args:
            arguments: of the program.
            cwd: where it runs.
            program: Python's arguments before these.
        """
        words = [sys.executable, *program, *map(str, arguments)]
        self.pid, self._side = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execve(sys.executable, words, environment(COLUMNS="200"))
        self.said = ""
        self._status = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """The command does not outlive its test."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.close()

    def wait_for(self, reached):
        """Read until `reached(what was said)`; the command must still be there."""
        began = time.monotonic()
        while not reached(self.said):
            assert self._read(wait=0.05) and time.monotonic() - began < TIMEOUT, self.said

    def interrupt(self):
        """Ctrl-C."""
        os.write(self._side, b"\x03")

    def close(self):
        """Close the window."""
        if self._side is not None:
            os.close(self._side)
            self._side = None

    def status(self):
        """The exit status, once the command has ended; what it said until then is in `said`."""
        while self._read():
            pass
        return self.wait()

    def wait(self):
        """The exit status, negative of one that a signal has ended, whether or not anybody still reads."""
        _, status = os.waitpid(self.pid, 0)
        self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def _read(self, wait=TIMEOUT):
        """More of what it says within so many seconds; False: there is nobody left who could say anything."""
        ready, _, _ = select.select([self._side], [], [], wait)
        if not ready:
            assert wait < TIMEOUT, self.said
            return True
        try:
            more = os.read(self._side, 1 << 16)
        except OSError:  # Linux: the last process has closed its side
            return False
        self.said += more.decode(errors="replace").replace("\r\n", "\n")
        return bool(more)
