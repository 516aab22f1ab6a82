"""The process inside a task, and what is known of its end."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from ofa.cluster.child import Child


def ended(program):
    """A Python program's status and the error that is read from it."""
    child = Child([sys.executable, "-c", program], cwd=Path.cwd(), environment=os.environ)
    until = time.monotonic() + 60
    while (status := child.poll()) is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    return status, child.error(status)


@pytest.mark.parametrize(
    ("program", "status", "error"),
    [
        ("import sys; sys.stderr.write('error: no data\\nbye\\n'); sys.exit(1)", 1, "error: no data"),
        ("raise ValueError('odd')", 1, "ValueError: odd"),
        ("import os; os._exit(3)", 3, "exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", -9, "ended by SIGKILL"),
        ("import os; os.write(2, b'half'); os.abort()", -6, "ended by SIGABRT; last words: half"),
    ],
)
def test_its_last_words_say_why_it_ended(program, status, error, capfd):
    assert ended(program) == (status, error)


TRACEBACK = """
import os, sys
try:
    raise ValueError("odd")
except ValueError as error:
    cause = error
import traceback
traceback.print_exception(cause)
"""


@pytest.mark.parametrize(
    ("after", "error"),
    [
        ("print('[W1129 21:13:11.0 PG.cpp:1] Warning: was NOT destroyed', file=sys.stderr)", "ValueError: odd"),
        ("print('[rank1]:[W1129 21:13:11.0 Pro.cpp:1] leaked', file=sys.stderr)", "ValueError: odd"),
        ("print('/a/b.py:3: UserWarning: leaked objects\\n  warnings.warn(', file=sys.stderr)", "ValueError: odd"),
        ("print('bye', file=sys.stderr)", "ValueError: odd"),
        ("raise torch_like", "NameError: name 'torch_like' is not defined"),
        ("class Own(Exception): __module__ = 'a.b'\nraise Own('two\\n  lines')", "a.b.Own: two"),
        ("raise AssertionError", "AssertionError"),
        ("print('error: full', file=sys.stderr); raise ValueError('even')", "error: full"),
    ],
)
def test_an_exception_is_told_from_what_libraries_say_after_it(after, error, capfd):
    assert ended(f"{TRACEBACK}\n{after}\nsys.exit(1)") == (1, error)


def test_warnings_are_the_last_words_only_of_who_said_nothing_else(capfd):
    said = "print('gave up after 3 tries', file=sys.stderr)"
    assert ended(f"import sys\nprint('UserWarning: x', file=sys.stderr)\n{said}\nsys.exit(1)") == (
        1,
        "gave up after 3 tries",
    )
    warned = "print('[W1129 21:13:11.0 x.cpp:1] leaked', file=sys.stderr)"
    assert ended(f"import sys\nprint('gave up', file=sys.stderr)\n{warned}\nsys.exit(1)") == (1, "gave up")
    assert ended(f"import sys\n{warned}\nsys.exit(1)") == (1, "[W1129 21:13:11.0 x.cpp:1] leaked")


def test_what_it_says_is_passed_on_and_long_texts_are_not_kept(capfd):
    program = "import sys\nfor n in range(20000): print('line', n, file=sys.stderr)\nsys.exit(1)"
    assert ended(program) == (1, "line 19999")
    assert len(capfd.readouterr().err.splitlines()) == 20000


def test_one_that_leaves_its_stderr_to_another_is_not_waited_for(capfd, monkeypatch):
    monkeypatch.setattr("ofa.cluster.child.AFTER_THE_END", 0.2)
    began = time.monotonic()
    status, _ = ended("import subprocess, sys; subprocess.Popen(['sleep', '20']); sys.exit(4)")
    assert status == 4 and time.monotonic() - began < 15


SAVES = """
import signal, sys, time
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(75))
print("ready", file=sys.stderr, flush=True)
time.sleep(60)
"""


def test_signals_reach_it():
    child = Child([sys.executable, "-c", SAVES], cwd=Path.cwd(), environment=os.environ)
    while "ready" not in child._lines:
        time.sleep(0.01)
    child.send(signal.SIGUSR2)
    while child.poll() is None:
        time.sleep(0.01)
    assert child.poll() == 75
