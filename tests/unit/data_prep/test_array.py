"""The work done by jobs: submitit's local ones, which are processes of this machine."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import data_prep.near_duplicates
from data_prep.array import ClusterArray, ClusterOptions
from data_prep.documents import DataPrepError
from data_prep.done import leaves
from data_prep.jobs import NOTE, Jobs, end_earlier, note
from data_prep.pipeline import prepare
from ofa.slurm.errors import SubmitError
from tests.terminal import Terminal

LOCAL = ClusterOptions(cluster="local", minutes=5)


def run(config, output, at_a_time=2):
    """Prepare by jobs."""
    return prepare(config, output, at_a_time, lambda *_: None, LOCAL)


def test_jobs_write_the_bytes_that_processes_write(tools, text, tmp_path):
    config = tools.config_for(text)
    tools.run(config, tmp_path / "processes")
    run(config, tmp_path / "jobs")
    assert tools.sums(tmp_path / "jobs") == tools.sums(tmp_path / "processes")


def test_only_what_is_missing_is_submitted(tools, text, tmp_path, monkeypatch):
    config = tools.config_for(text)
    asked: list[list[int]] = []
    is_broken = [False, True]
    original = ClusterArray._do

    def watch(self, slices):
        asked.append([len(calls) for _, calls in slices])
        if len(asked) <= len(is_broken) and is_broken[len(asked) - 1]:
            raise RuntimeError("stopped")
        return original(self, slices)

    monkeypatch.setattr(ClusterArray, "_do", watch)
    with pytest.raises(RuntimeError, match="stopped"):
        run(config, tmp_path / "out", at_a_time=1)
    units, pieces = sum(asked[0]), sum(asked[1])
    assert units >= 2 and pieces >= 3 and max(map(len, asked)) == 1  # as many as run at a time start
    done = sorted((tmp_path / "out" / ".work" / "extract").glob("*.json"))
    done[0].unlink()
    asked.clear()
    is_broken.clear()
    run(config, tmp_path / "out", at_a_time=1)
    assert asked[0] == [1] and sum(asked[1]) == pieces


def test_steps_of_near_duplicates_that_are_done_are_not_submitted_again(tools, text, tmp_path, monkeypatch):
    config = tools.config_for(text, clean={"near_duplicates": True})
    asked: list[str] = []
    original = ClusterArray._do

    def watch(self, slices):
        asked.append(slices[0][0].__name__)
        return original(self, slices)

    def stopped(*_):
        raise RuntimeError("stopped")

    monkeypatch.setattr(ClusterArray, "_do", watch)
    monkeypatch.setattr(data_prep.near_duplicates, "later_of_clusters", stopped)
    with pytest.raises(RuntimeError, match="stopped"):
        run(config, tmp_path / "out")
    assert asked == ["extract", "_signatures", "_matches", "_clusters"]
    asked.clear()
    monkeypatch.undo()
    monkeypatch.setattr(ClusterArray, "_do", watch)
    run(config, tmp_path / "out")
    assert asked == ["encode"]


def test_results_come_while_their_job_is_at_work(tmp_path):
    """So that the progress of hours is seen."""

    @leaves(lambda folder, number: folder / str(number))
    def work(folder, number):
        while number and not (folder / "go").exists():
            time.sleep(0.05)
        (folder / str(number)).touch()
        return number

    with ClusterArray(1, tmp_path / "jobs", LOCAL) as pool:
        results = pool.map(work, [(tmp_path, 0), (tmp_path, 1)])
        assert next(results) == 0 and not (tmp_path / "1").exists()
        (tmp_path / "go").touch()
        assert list(results) == [1]
    assert not (tmp_path / "jobs" / NOTE).exists()


def test_the_error_of_a_job_is_said_with_its_log(tools, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.jsonl").write_text(json.dumps({"id": 1, "words": "x"}) + "\n")
    config = tools.config_for(tmp_path / "text", source={"group_field": None})
    with pytest.raises(
        DataPrepError, match=r"a.jsonl, line 1: no text in field 'text'.*\(job .*, log .*run again"
    ) as error:
        run(config, tmp_path / "out", at_a_time=1)
    assert "Traceback" not in str(error.value)
    assert Path(str(error.value).split("log ")[1].split(")")[0]).is_file()


def test_the_jobs_of_a_run_that_was_killed_are_ended_by_the_next(tools, text, tmp_path, capsys):
    config = tools.config_for(text)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    command = [sys.executable, "-m", "data_prep", "--config", str(tmp_path / "config.json"), "--workers", "1"]
    command += ["--output", str(tmp_path / "out"), "--cluster", "local"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    jobs = Jobs("local", str(tmp_path / "out" / ".work" / "jobs"), "")
    while not jobs.at_work():
        assert process.poll() is None
        time.sleep(0.01)
    left = jobs.at_work()
    for pid in left:
        os.kill(int(pid), signal.SIGSTOP)  # they would come to their end
    process.kill()
    process.wait()
    assert left <= jobs.at_work()
    run(config, tmp_path / "out")
    assert "of its jobs are at work and end now" in capsys.readouterr().err
    assert not left & jobs.at_work()
    tools.run(config, tmp_path / "processes")
    assert tools.sums(tmp_path / "out") == tools.sums(tmp_path / "processes")


def test_ctrl_c_stops_jobs_of_this_machine_with_one_line(tools, text, tmp_path):
    """They leave what the terminal sends them too to the main process."""
    config = tools.config_for(text)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    options = ("--config", tmp_path / "config.json", "--workers", "1", "--output", tmp_path / "out")
    jobs = Jobs("local", str(tmp_path / "out" / ".work" / "jobs"), "")
    with Terminal(*options, "--cluster", "local", program=("-m", "data_prep"), cwd=tmp_path) as terminal:
        terminal.wait_for(lambda said: jobs.at_work())
        for number in (signal.SIGHUP, signal.SIGINT):
            for pid in jobs.at_work():
                os.kill(int(pid), number)
        time.sleep(0.5)
        terminal.interrupt()
        assert terminal.status() == 75, terminal.said
    assert "Traceback" not in terminal.said and terminal.said.count("stopped; run the same command") == 1
    deadline = time.monotonic() + 10
    while jobs.at_work():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_jobs_that_cannot_be_found_from_here_are_not_done_again(tmp_path, monkeypatch):
    note(tmp_path, "slurm", "data_prep")
    monkeypatch.setenv("PATH", str(tmp_path))  # as on a machine without Slurm
    words = f"was cut off: there is no squeue here; .*remove {tmp_path / NOTE} and run again"
    with pytest.raises(DataPrepError, match=words):
        end_earlier(tmp_path)
    (tmp_path / NOTE).write_text('{"cluster": "local", "name": "x", "host": "elsewhere"}')
    with pytest.raises(DataPrepError, match="was cut off on elsewhere: run there"):
        end_earlier(tmp_path)


def test_a_preparation_that_is_a_job_itself_tells_its_jobs_nothing_of_that(tmp_path, monkeypatch):
    """sbatch takes such variables for options: memory of its own job beside that of the new one is an error."""
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", ""), ("scontrol", ""), ("sbatch", f"env > {tmp_path}/env; echo no >&2; exit 1")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    array = ClusterArray(1, tmp_path / "jobs", ClusterOptions(uncommitted=True))
    with pytest.raises(SubmitError, match="the jobs were not submitted: sbatch says: no"):
        list(array.map(print, [(1,)]))
    told = (tmp_path / "env").read_text()
    assert "SLURM_CONF=/etc/slurm.conf" in told and "SLURM_MEM_PER_CPU" not in told
    (code,) = (tmp_path / "jobs" / "code").iterdir()
    assert re.search(rf"^PYTHONPATH={code}(:|$)", told, re.M) and "PYTHONSAFEPATH=1" in told
    assert (code / "data_prep" / "array.py").is_file()
    assert os.environ["SLURM_MEM_PER_CPU"] == "100" and str(code) not in os.environ.get("PYTHONPATH", "")


def test_an_option_that_is_none_of_sbatch_is_refused(tmp_path):
    with pytest.raises(SubmitError, match="--sbatch 9: expected an option of sbatch"):
        ClusterArray(1, tmp_path, ClusterOptions(cluster="local", other=("9",)))
