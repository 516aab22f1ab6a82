"""Jobs of this machine, seen from the terminal in which they were submitted."""

import json
import os
import shlex
import signal
import time

import pytest

from ofa.cluster.attempts import read_attempts
from ofa.cluster.jobs_file import live_local_job
from tests.commands import command, overrides
from tests.corpora import write_corpus
from tests.e2e.conftest import TINY
from tests.processes import TIMEOUT
from tests.terminal import Terminal

LOCAL = ("--cluster", "local")
LONG = ("launch/pretrain.py", "--config", "mine.json", "--set", "schedule.total_steps=100000")


@pytest.fixture
def project(tmp_path):
    """A folder with a config and its data, whose jobs end with the test."""
    write_corpus(tmp_path / "data", rows=30)
    (tmp_path / "mine.json").write_text(json.dumps(TINY))
    yield tmp_path
    job = live_local_job(tmp_path / "runs" / "mine")
    if job is not None and job.process is not None:
        os.killpg(job.process.pid, signal.SIGKILL)


def wait_until(reached):
    """Until it is so."""
    began = time.monotonic()
    while not reached():
        assert time.monotonic() - began < TIMEOUT
        time.sleep(0.05)


def test_ctrl_c_leaves_the_job_alone_and_says_how_to_see_and_to_stop_it(project):
    """Which no other one is submitted beside, and which what is said then ends, after a save."""
    run = project / "runs" / "mine"
    with Terminal(*LOCAL, "--follow", *LONG, cwd=project) as terminal:
        terminal.wait_for(lambda said: "step 0" in said)
        terminal.interrupt()
        assert terminal.status() == 0, terminal.said
    job = live_local_job(run)
    assert job is not None, terminal.said
    assert terminal.said.rpartition("^C")[2].splitlines() == [
        "",
        f"no longer following: job {job.job} goes on; watch: python launch/status.py --watch; "
        f"stop: kill {job.job} (it saves first)",
    ]
    assert os.getsid(int(job.job)) == int(job.job) != os.getsid(0)
    assert [line.split()[:2] for line in command("status.py", cwd=project).out.splitlines()][1] == [
        "runs/mine",
        "running",
    ]
    answer = command("submit.py", *LOCAL, *LONG, cwd=project)
    words = f"error: run folder runs/mine: job {job.job} of this machine runs for it: kill {job.job} first"
    assert answer.status == 1 and answer.err.startswith(words)
    os.kill(int(job.job), signal.SIGTERM)
    wait_until(lambda: live_local_job(run) is None)
    (attempt,) = read_attempts(run)
    assert attempt.end is not None and (attempt.end.status, attempt.end.step > 0) == (75, True)


def test_a_terminal_that_is_closed_ends_no_job(project):
    with Terminal(*LOCAL, "--follow", *LONG, cwd=project) as terminal:
        terminal.wait_for(lambda said: "attempt 1 of" in said)
        terminal.close()
        assert terminal.wait() == -signal.SIGHUP, "who follows it is gone"
    (begun,) = read_attempts(project / "runs" / "mine")
    assert live_local_job(project / "runs" / "mine") is not None and begun.end is None


def test_data_preparation_that_is_told_to_end_is_seen_as_stopped(project):
    """Not as killed: its own record says that it has kept what it has done."""
    with Terminal(*LOCAL, "--follow", "data_prep", "--config", "tiny/docstrings.json", cwd=project) as terminal:
        terminal.wait_for(lambda said: "extract" in said)
        (job,) = (path.name.removesuffix("_attempts") for path in (project / "runs" / ".jobs").glob("*_attempts"))
        os.kill(int(job), signal.SIGTERM)
        assert terminal.status() == 75
    assert terminal.said.splitlines()[-1].startswith("error: data_prep:docstrings was stopped, and has saved: ")
    (row,) = json.loads(command("status.py", "--json", cwd=project).out)
    assert (row["state"], row["error"]) == ("stopped and saved", None)


def test_a_chain_that_is_left_says_what_was_not_begun_and_how_to_go_on(project):
    """In a command that does it."""
    verify = ("--then", "--jobs", "elsewhere", "launch/verify.py", "runs/mine")
    with Terminal(*LOCAL, "--jobs", "elsewhere", *LONG, *verify, cwd=project) as terminal:
        terminal.wait_for(lambda said: "process" in said)
        terminal.interrupt()
        assert terminal.status() == 130
    last = terminal.said.splitlines()[-1]
    assert "goes on; " in last and "; not begun: verify; once that is done, go on with: python " in last
    typed = shlex.split(last.rpartition("go on with: python ")[2])
    assert typed[1:] == ["--jobs", "elsewhere", "--cluster", "local", *LONG, "--then", *verify[3:]]


def test_a_chain_that_breaks_says_what_was_not_begun_and_how_to_go_on(project):
    (project / "empty").mkdir()
    short = (*LONG[:3], "--run-dir", "runs/short", *overrides("schedule.total_steps=2", "schedule.warmup_steps=1"))
    chain = ("--time", "1h", *short, "--then", "--grace", "60", "launch/verify.py", "empty")
    with Terminal(*LOCAL, *chain, "--then", "--time", "2h", *LONG, cwd=project) as terminal:
        assert terminal.status() == 1
    last = terminal.said.splitlines()[-1]
    assert last.startswith("error: verify failed: ") and "empty is neither a run" in last
    assert "; not begun: pretrain:mine; mend that, then go on with: python " in last
    typed = shlex.split(last.rpartition("go on with: python ")[2])
    own = ["--time", "3600s", "--grace", "60", "--cluster", "local", "launch/verify.py", "empty"]
    assert typed[1:] == [*own, "--then", "--time", "7200s", *LONG]


@pytest.mark.parametrize(("then", "lines"), [((), []), (("--then", *LONG), ["error: verify ended with status 1; not"])])
def test_a_job_in_this_process_says_its_error_once(project, then, lines):
    (project / "empty").mkdir()
    with Terminal("--cluster", "debug", "launch/verify.py", "empty", *then, cwd=project) as terminal:
        assert terminal.status() == 1
    errors = [line for line in terminal.said.splitlines() if "error:" in line]
    assert errors[0].startswith("error: empty is neither a run")
    assert [line[: len(begin)] for line, begin in zip(errors[1:], lines, strict=True)] == lines
    assert "process DEBUG" not in terminal.said
