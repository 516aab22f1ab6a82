"""One attempt as submitit starts it, on its `local` cluster: environment, record, signals, what a failure shows."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import submitit

from ofa.cluster.attempt import Command, JobTask
from ofa.cluster.attempts import read_attempts, write_end, write_start
from ofa.cluster.other_ranks import first_end
from ofa.cluster.verdict import CRASHED, KILLED, LOST, SAVED, Limits
from ofa.files import write_text

TELL = """
import json, os, pathlib
names = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
pathlib.Path(f"rank-{os.environ['RANK']}").write_text(json.dumps({name: os.environ[name] for name in names}))
"""

SAVES = """
import pathlib, signal, sys, time
def save(*_):
    checkpoints = pathlib.Path("run/checkpoints")
    checkpoints.mkdir()
    (checkpoints / "latest").write_text("step-00000012")
    sys.exit(75)
signal.signal(signal.SIGUSR2, save)
pathlib.Path("ready").touch()
time.sleep(60)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Submits a program to the local cluster."""
    monkeypatch.chdir(tmp_path)

    def submit(program, *, tasks=1, trains=True, arguments=()):
        executor = submitit.AutoExecutor(folder=tmp_path / "jobs", cluster="local")
        executor.update_parameters(timeout_min=5, tasks_per_node=tasks, stderr_to_stdout=True)
        command = Command(("-c", program, *arguments), tmp_path, trains, tmp_path / "run")
        return executor.submit(JobTask(command, folder=tmp_path / "jobs", grace=120, limits=Limits()))

    return submit


def said(job):
    """The log of rank 0, once the job has ended."""
    until = time.monotonic() + 120
    while not job.done():
        assert time.monotonic() < until
        time.sleep(0.05)
    return job.paths.stdout.read_text()


def test_ranks_find_each_other(start, tmp_path):
    job = start(TELL, tasks=2)
    assert job.results() == [0, 0]
    told = [json.loads((tmp_path / f"rank-{rank}").read_text()) for rank in (0, 1)]
    assert [one.pop("RANK") for one in told] == [one.pop("LOCAL_RANK") for one in told] == ["0", "1"]
    assert told[0] == told[1]
    assert (told[0]["WORLD_SIZE"], told[0]["LOCAL_WORLD_SIZE"], told[0]["MASTER_ADDR"]) == ("2", "2", "127.0.0.1")
    (attempt,) = read_attempts(tmp_path / "run")
    assert (attempt.job, attempt.ranks, attempt.end.status, attempt.end.reason) == (job.job_id, 2, 0, "done")
    assert attempt.commit


def test_a_record_that_has_gone_meanwhile_hides_no_crash(start, tmp_path):
    """Removed, or torn by another machine: what the run says of its end is still said."""
    job = start("import os, sys; os.remove('run/attempts.jsonl'); sys.exit('error: no such thing')", trains=False)
    assert "crashed: error: no such thing" in said(job) and "IndexError" not in said(job)


def test_a_script_of_one_process_is_no_rank(start, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert start("import os, sys; sys.exit('RANK' in os.environ)", trains=False).results() == [0]


def test_a_failure_fails_the_job_and_shows_why(start, tmp_path):
    job = start("import sys; print('error: no data in nowhere', file=sys.stderr); sys.exit(1)")
    assert "crashed: error: no data in nowhere" in said(job)
    assert job._process.returncode == 0 and job.exception() is not None
    (attempt,) = read_attempts(tmp_path / "run")
    assert (attempt.end.status, attempt.end.reason, attempt.end.error) == (1, CRASHED, "error: no data in nowhere")


def test_a_signal_reaches_the_run_and_is_no_crash(start, tmp_path):
    job = start(SAVES)
    until = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < until, job.stdout()
        time.sleep(0.05)
    (task,) = Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)
    said(job)
    (attempt,) = read_attempts(tmp_path / "run")
    assert (attempt.step, attempt.end.status, attempt.end.step, attempt.end.reason) == (0, 75, 12, SAVED)


GOES_SLOWLY = """
import pathlib, signal, sys, time
def save(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    print("stopped and saved: start the same command again to continue", file=sys.stderr, flush=True)
    time.sleep(60)
signal.signal(signal.SIGTERM, save)
pathlib.Path("ready").touch()
time.sleep(60)
"""


def test_a_second_signal_on_the_way_out_makes_nothing_of_what_was_saved(start, tmp_path):
    job = start(GOES_SLOWLY)
    until = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < until:
        time.sleep(0.05)
    (task,) = Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split()
    os.kill(int(task), signal.SIGTERM)
    while "stopped and saved" not in (job.stdout() or "") and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(int(task), signal.SIGTERM)
    said(job)
    (attempt,) = read_attempts(tmp_path / "run")
    assert (attempt.end.status, attempt.end.reason) == (75, SAVED)


SECOND_GOES = """
import os, pathlib, sys, time
if os.environ["RANK"] == "1":
    raise ModuleNotFoundError("no module named x")
while not any("ended at" in log.read_text() for log in pathlib.Path("jobs").glob("*_1_log.out")):
    time.sleep(0.05)
sys.exit("error: rank 1 (host b, pid 7) is gone: start the same command again")
"""


def test_where_another_rank_is_the_reason_its_words_are_shown(start, tmp_path):
    job = start(SECOND_GOES, tasks=2)
    said(job)
    (attempt,) = read_attempts(tmp_path / "run")
    assert attempt.end.error == (
        "error: rank 1 (host b, pid 7) is gone: start the same command again; "
        "rank 1 ended first: ModuleNotFoundError: no module named x"
    )
    assert first_end(tmp_path / "jobs", job.job_id, 2, 1) is None, "nobody has said anything since another start"


def test_a_rank_that_is_gone_without_a_word_went_with_its_node(start, tmp_path):
    """Which is no crash of the run."""
    program = "import os, sys; sys.exit(os.environ['RANK'] == '0' and 'error: rank 1 (host b, pid 7) {}')"
    said(start(program.format("is gone"), tasks=2))
    said(start(program.format("hangs, silent for 99 s"), tasks=2))
    gone, hangs = read_attempts(tmp_path / "run")
    assert (gone.end.reason, gone.end.error) == (LOST, "error: rank 1 (host b, pid 7) is gone")
    assert hangs.end.reason == CRASHED


def test_an_own_error_is_shown_alone(start, tmp_path):
    said(start(SECOND_GOES.replace("rank 1 (host b, pid 7) is gone", "no plan for 2 ranks"), tasks=2))
    (attempt,) = read_attempts(tmp_path / "run")
    assert attempt.end.error == "error: no plan for 2 ranks: start the same command again"


@pytest.fixture
def again(tmp_path):
    """Submits a program as a later start of a job, whose attempts so far are on record as those of job J."""

    def submit(program, *arguments, tasks=1):
        executor = submitit.AutoExecutor(folder=tmp_path / "jobs", cluster="local")
        executor.update_parameters(timeout_min=5, tasks_per_node=tasks, stderr_to_stdout=True)
        command = Command(("-c", program, *arguments), tmp_path, True, tmp_path / "run")
        task = JobTask(command, folder=tmp_path / "jobs", grace=9, limits=Limits(kills=1))
        return executor.submit(_Renamed(tmp_path / "run" / "attempts.jsonl", task))

    return submit


def before(folder, restart, step=4):
    """An attempt of job J that is on record; its present one has the number 0."""
    return write_start(folder, job="J", restart=restart, nodes=["n"], ranks=1, step=step, commit=None)


def test_a_job_that_was_killed_too_often_is_not_begun_on_any_rank(again, tmp_path):
    """As after nodes that went down one after the other under the same run; its last attempt tells why it is over."""
    folder = tmp_path / "run"
    write_end(folder, before(folder, -3), status=1, step=4, reason=CRASHED, error="error: out of memory")
    for restart in (-2, -1):
        before(folder, restart)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "latest").write_text("step-00000004")
    job = again("import pathlib; pathlib.Path('begun').touch()", tasks=2)
    assert "killed 2 times in a row at step 4" in said(job) and "error: out of memory" in said(job)
    assert not (tmp_path / "begun").exists()
    *_, last = read_attempts(folder)
    assert (last.number, last.end.status, last.end.reason) == (3, -9, KILLED) and "2 times in a row" in last.end.error


@pytest.mark.parametrize(("step", "more"), [(0, ["--resume", "auto"]), (7, [])])
def test_a_new_run_is_continued_by_later_starts_and_one_that_was_there_before_is_not(again, tmp_path, step, more):
    folder = tmp_path / "run"
    write_end(folder, before(folder, -1, step), status=1, step=step, reason=CRASHED, error="x")
    job = again("import pathlib, sys; pathlib.Path('told').write_text(' '.join(sys.argv[1:]))", "--resume", "never")
    said(job)
    assert (tmp_path / "told").read_text().split() == ["--resume", "never", *more]


def test_a_job_is_not_judged_by_an_older_one_that_had_its_number(again, tmp_path):
    """As of a Slurm that was set up anew."""
    for restart in (0, 1):
        before(tmp_path / "run", restart, 0)
    said(again("import pathlib; pathlib.Path('begun').touch()"))
    assert (tmp_path / "begun").exists()


class _Renamed:
    """A task before whose start the attempts on record become those of its job."""

    def __init__(self, path, task):
        self._path, self._task = path, task

    def __call__(self):
        place = submitit.JobEnvironment()
        text = self._path.read_text().replace('"J"', f'"{place.job_id}"')
        if place.global_rank == 0:
            write_text(self._path, text)
        while '"J"' in self._path.read_text():
            time.sleep(0.02)
        return self._task()
