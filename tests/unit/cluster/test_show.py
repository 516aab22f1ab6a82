"""Which runs a table has, and how it is printed."""

import json
import os
import time
from pathlib import Path

import pytest

from ofa.cluster import queue, show
from ofa.cluster.jobs_file import note_job
from ofa.cluster.queue import QueuedJob
from ofa.cluster.row import Row, State
from ofa.slurm.commands import SlurmError
from tests.commands import command

SAVED = ("ofa.train", "stopped and saved")


def names(rows, below):
    """Folders of rows, relative."""
    return [str(Path(one.run).relative_to(below)) for one in rows]


@pytest.fixture
def project(make, tmp_path):
    """Runs in several states, a sweep, and folders that are neither."""
    make("ofa_90").begun().trained(100).finished().given_back()
    make("tiny/teacher").begun().trained(30).said(SAVED).given_back()
    make("broken").write("config.json", "{").given_back()
    make("exported").write("config.json", json.dumps({"model_type": "x"})).write("model.safetensors", "w")
    make("empty")
    make(".jobs/17").write("lock", "")
    make("sweep").write("config.json", json.dumps({"config": {"script": "cofi"}, "cells": ["a", "b", "c"]}))
    make("sweep/a").begun().trained(100).finished().given_back()
    make("sweep/b").write("output.txt", "starting\nerror: no data\n")
    return tmp_path


def test_all_runs_below_a_folder_are_found_by_name_a_sweep_as_one(project):
    rows, trouble = show.status_rows([project / "runs"])
    assert names(rows, project / "runs") == ["broken", "ofa_90", "sweep", "tiny/teacher"] and trouble is None
    assert [str(one.state) for one in rows] == ["unfinished", "finished", "failed", "stopped and saved"]
    assert (rows[2].step, rows[2].total, rows[2].error) == (1, 3, "b: no data")


def test_a_sweep_that_is_named_has_a_row_for_each_of_its_runs_and_no_run_stands_twice(project):
    rows, _ = show.status_rows([project / "runs" / "sweep", project / "runs"])
    assert names(rows, project / "runs")[:3] == ["sweep", "sweep/a", "sweep/b"]
    assert len({one.run for one in rows}) == len(rows) == 6
    assert [str(one.state) for one in rows[:3]] == ["failed", "finished", "failed"]


def test_a_run_is_found_by_its_own_folder(project):
    rows, _ = show.status_rows([project / "runs" / "tiny" / "teacher"])
    assert names(rows, project / "runs") == ["tiny/teacher"]


def test_links_in_a_circle_end(project):
    (project / "runs" / "tiny" / "round").symlink_to(project / "runs")
    rows, _ = show.status_rows([project / "runs" / "tiny"])
    assert "tiny/teacher" in names(rows, project / "runs")


def test_a_folder_that_is_not_there_is_an_error(project):
    answer = command("status.py", "nothing", cwd=project)
    assert answer.status == 1 and answer.lines_of_error() == [
        "error: nothing is no folder: name run folders, or folders with runs below them"
    ]


def test_the_command_prints_a_line_for_each_run(project):
    answer = command("status.py", cwd=project)
    assert answer.status == 0, answer.err
    head, *lines = answer.out.splitlines()
    assert head.split("  ")[0] == "run" and head.rstrip().endswith("last error")
    (stopped,) = (line for line in lines if line.startswith("runs/tiny/teacher"))
    assert stopped.split()[1:] == ["stopped", "and", "saved", "-", "30/100", "14.5%", "2.710", "1,000", "-"]
    (sweep,) = (line for line in lines if line.startswith("runs/sweep"))
    assert "1/3 cells" in sweep and sweep.endswith("b: no data")
    assert lines[-1] == "4 runs: 1 finished, 1 stopped and saved, 1 failed, 1 unfinished"
    assert "\x1b" not in answer.out


def test_json_has_the_same_and_more(project):
    answer = command("status.py", "runs/tiny", "--json", cwd=project)
    (one,) = json.loads(answer.out)
    assert one["run"] == "runs/tiny/teacher" and one["state"] == "stopped and saved"
    assert one["step"] == 30 and one["saved_step"] == 0 and one["is_sweep"] is False


@pytest.mark.parametrize("wrong", [("--watch", "--json"), ("--every", "5"), ("--every", "no", "--watch")])
def test_what_does_not_go_together_is_refused(project, wrong):
    assert command("status.py", *wrong, cwd=project).status == 2


def test_no_runs_at_all(tmp_path):
    (tmp_path / "runs").mkdir()
    assert command("status.py", cwd=tmp_path).out.splitlines()[-1] == "0 runs"


def test_brackets_in_an_error_are_no_markup(make, tmp_path):
    make("a").write("output.txt", "error: [red] tensor[0] is [bold]\n")
    assert command("status.py", cwd=tmp_path).out.splitlines()[1].endswith("[red] tensor[0] is [bold]")


def test_a_hundred_runs_are_quick(make, tmp_path):
    """Each with ten thousand lines, of which the last hundred are read."""
    for number in range(100):
        make(f"group/{number:03}").begun(10_000).said(SAVED).given_back()
    folder = make("long").trained(10_000)
    for path in (tmp_path / "runs" / "group").iterdir():
        os.link(folder.path / "metrics.jsonl", path / "metrics.jsonl")
    began = time.process_time()
    rows, _ = show.status_rows([tmp_path / "runs"])
    assert len(rows) == 101 and {one.step for one in rows} >= {10_000}
    assert time.process_time() - began < 2.0, "0.35 s on an idle core; all lines would take 10"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.6, "1m 00s"), (65, "1m 05s"), (7500, "2h 05m"), (277_200, "3d 05h")]
)
def test_how_time_left_is_written(seconds, text):
    assert show._cells(Row("a", State.RUNNING, eta=seconds))[7] == text


def test_what_squeue_prints_is_understood():
    lines = ("17|PENDING|Resources", "18_3|RUNNING|None|9|pretrain:a|b", "", "19|PENDING|(launch failed|requeued)|0|a")
    assert queue.parse("\n".join(lines)) == {
        "17": QueuedJob("PENDING", "Resources"),
        "18_3": QueuedJob("RUNNING", "", 9, "pretrain:a|b"),
        "19": QueuedJob("PENDING", "(launch failed|requeued)", 0, "a"),
    }
    assert QueuedJob("RUNNING", "").has_nodes and not QueuedJob("PENDING", "").has_nodes


def squeue(folder, text, monkeypatch):
    """Put a program of that name on the path."""
    folder.mkdir(exist_ok=True)
    (folder / "squeue").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_a_number_that_is_by_now_somebody_elses_job_is_no_job_of_a_run(make, tmp_path, monkeypatch):
    """Slurm's numbers begin again, and are others on another cluster."""
    make("older").write("jobs.json", json.dumps({"jobs": [{"job": "17"}]}))
    for name in ("mine", "other_name", "other_user"):
        note_job(make(name).path, "17", command="", log=tmp_path / "log", name=f"pretrain:{name}")
    note_job(make("here").path, "17", command="", log=tmp_path / "log", name="pretrain:mine", process=1)
    states = {}
    for user, name in ((os.getuid(), "pretrain:mine"), (os.getuid() + 1, "pretrain:other_user")):
        squeue(tmp_path / "bin", f'echo "17|PENDING|(launch failed|requeued)|{user}|{name}"', monkeypatch)
        rows, _ = show.status_rows([tmp_path / "runs"])
        states[name] = {Path(one.run).name for one in rows if one.state == State.PENDING}
        assert list(queue.queued(["17"])) == (["17"] if user == os.getuid() else [])
    assert states == {"pretrain:mine": {"mine", "older"}, "pretrain:other_user": set()}


def test_the_queue_is_asked_once_for_all_jobs(make, tmp_path, monkeypatch):
    for job in ("17", "18_3"):
        make(job).write("jobs.json", json.dumps({"jobs": [job]}))
    squeue(tmp_path / "bin", f'echo "$@" >> {tmp_path}/asked; echo "17|PENDING|Priority"', monkeypatch)
    rows, _ = show.status_rows([tmp_path / "runs"])
    assert [str(one.state) for one in rows] == ["pending", "never started"]
    (asked,) = (tmp_path / "asked").read_text().splitlines()
    assert asked.endswith("--jobs 17,18_3")


def test_a_queue_that_does_not_answer_costs_only_what_it_knows(make, tmp_path, monkeypatch):
    make("a").write("jobs.json", json.dumps({"jobs": ["17"]}))
    squeue(tmp_path / "bin", "echo 'slurm_load_jobs error: Unable to contact controller' >&2; exit 1", monkeypatch)
    rows, trouble = show.status_rows([tmp_path / "runs"])
    assert rows[0].state == State.NEVER_STARTED and "Unable to contact" in trouble
    monkeypatch.setattr(queue, "PATIENCE", 0.1)
    squeue(tmp_path / "bin", "exec sleep 5", monkeypatch)
    with pytest.raises(SlurmError, match=r"squeue did not answer within 0 s"):
        queue.queued(["17"])


def test_json_does_not_hide_that_the_queue_cannot_be_read(make, tmp_path, monkeypatch):
    make("a").write("jobs.json", json.dumps({"jobs": ["17"]}))
    squeue(tmp_path / "bin", "echo 'slurm_load_jobs error: Unable to contact controller' >&2; exit 1", monkeypatch)
    answer = command("status.py", "--json", cwd=tmp_path)
    assert json.loads(answer.out)[0]["state"] == "never started"
    assert answer.err.startswith("note: without Slurm's queue: squeue says: ") and "Unable to contact" in answer.err


def test_a_damaged_list_of_jobs_costs_no_other_row(make, tmp_path, monkeypatch):
    make("a").write("jobs.json", "{")
    make("b").write("jobs.json", json.dumps({"jobs": ["17"]}))
    squeue(tmp_path / "bin", 'echo "17|PENDING|Priority"', monkeypatch)
    rows, _ = show.status_rows([tmp_path / "runs"])
    assert [str(one.state) for one in rows] == ["unreadable", "pending"] and "jobs.json is damaged" in rows[0].error


def test_a_sweep_that_is_a_job_itself_has_its_place_in_the_queue(make, tmp_path, monkeypatch):
    record = json.dumps({"config": {"script": "cofi"}, "cells": ["a", "b"]})
    make("sweep").write("config.json", record).write("jobs.json", json.dumps({"jobs": ["17"]}))
    make("sweep/a").begun().trained(30).said(SAVED).given_back()
    squeue(tmp_path / "bin", 'echo "17|PENDING|BeginTime"', monkeypatch)
    (row,), _ = show.status_rows([tmp_path / "runs"])
    assert (row.state, row.waits_for, row.job) == (State.REQUEUED, "BeginTime", "17")
    assert "  requeued (job 17): BeginTime  " in command("status.py", cwd=tmp_path).out


def test_a_job_of_this_machine_has_its_number_while_it_lives(make, tmp_path):
    note_job(make("mine").begun().path, "17", command="", log=tmp_path / "log", process=os.getpid())
    assert f"  running (process {os.getpid()})  " in command("status.py", cwd=tmp_path).out
    (row,) = json.loads(command("status.py", "--json", cwd=tmp_path).out)
    assert row["process"] == os.getpid() and row["job"] is None


def test_jobs_that_slurm_has_forgotten_are_in_no_queue(tmp_path, monkeypatch):
    squeue(tmp_path / "bin", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", monkeypatch)
    assert queue.queued(["17"]) == {}
