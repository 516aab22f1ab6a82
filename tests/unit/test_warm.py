"""Forked processes are what started ones are: arguments, environment, files, groups, statuses, signals of their own."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests import processes, warm

pytestmark = pytest.mark.skipif(not warm.possible(), reason="processes are started here")

PROGRAM = """
import json, os, signal, sys, time

import ofa.train

about = {"argv": sys.argv, "path": sys.path[0], "cwd": os.getcwd(), "name": __name__, "file": __file__}
about |= {"given": os.environ.get("GIVEN"), "group": os.getpgrp(), "pid": os.getpid(), "hash": hash("a set's order")}
about |= {"input": sys.stdin.read(), "handler": signal.getsignal(signal.SIGINT) is signal.default_int_handler}
print(json.dumps(about), flush=True)
print("to the other", file=sys.stderr)
if "wait" in sys.argv:
    time.sleep(600)
if "fail" in sys.argv:
    raise ValueError("so it failed")
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def program(tmp_path):
    """A Python file that says what it is."""
    path = tmp_path / "programs" / "one.py"
    path.parent.mkdir()
    path.write_text(PROGRAM)
    return path


def test_it_is_as_if_it_had_been_started(program, tmp_path):
    done = processes.run(program, 75, "b c", cwd=tmp_path, check=False, GIVEN="here")
    about = json.loads(done.stdout)
    assert done.returncode == 75 and done.stderr == "to the other\n"
    assert about["argv"] == [str(program), "75", "b c"] and about["file"] == str(program)
    assert (about["path"], about["cwd"], about["name"]) == (str(program.parent), str(tmp_path), "__main__")
    assert about["given"] == "here" and about["input"] == "" and about["handler"]
    assert about["pid"] not in (os.getpid(), about["group"]) and about["group"] == os.getpgrp()
    assert "GIVEN" not in os.environ and processes.run(program, 0, cwd=tmp_path).returncode == 0


def test_an_error_is_a_traceback_and_status_1(program, tmp_path):
    done = processes.run(program, "fail", cwd=tmp_path, check=False)
    assert done.returncode == 1 and done.stderr.endswith("ValueError: so it failed\n") and "Traceback" in done.stderr


def test_processes_in_turn_have_another_order_of_sets(program, tmp_path):
    hashes = [json.loads(processes.run(program, 0, cwd=tmp_path).stdout)["hash"] for _ in range(warm.PARENTS)]
    assert len(set(hashes)) == warm.PARENTS


def test_a_group_of_processes_is_ended_by_a_signal_and_tells_of_it(program, tmp_path):
    out = [tmp_path / f"{number}.out" for number in range(2)]
    group = processes.start_ranks(program, "wait", cwd=tmp_path, outputs=out, begin=warm.start)
    while not all(path.read_text().endswith("to the other\n") for path in out):
        assert [process.poll() for process in group] == [None, None]
        time.sleep(0.01)
    assert {json.loads(path.read_text().splitlines()[0])["group"] for path in out} == {group[0].pid}
    with pytest.raises(subprocess.TimeoutExpired):
        group[0].wait(timeout=0.01)
    os.killpg(group[0].pid, signal.SIGKILL)
    assert [process.wait(timeout=60) for process in group] == [-signal.SIGKILL] * 2
    group[1].send_signal(signal.SIGTERM)  # nobody is there any more
    assert group[1].poll() == -signal.SIGKILL


def test_a_cold_one_begins_with_nothing(tmp_path):
    program = tmp_path / "cold.py"
    program.write_text("import sys\nprint('torch' in sys.modules)")
    assert processes.run(program, cwd=tmp_path).stdout == "True\n"
    assert processes.finished([sys.executable, str(program)], cwd=tmp_path).stdout == "False\n"
