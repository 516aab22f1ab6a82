"""The state of runs from what lies in their folders."""

import json
import os
import socket
import time

import pytest

from ofa.cluster.attempts import write_end, write_start
from ofa.cluster.find import look_at
from ofa.cluster.jobs_file import note_job
from ofa.cluster.queue import QueuedJob
from ofa.cluster.row import State
from ofa.cluster.status import row, sweep_row
from ofa.cluster.verdict import UNSAVED
from ofa.run_files import RunFolderError, is_in_use
from ofa.run_folder import RunFolder

HERE = socket.gethostname()
RUNNING = ("ofa.progress", "tiny: step 0 of 100")
SAVED = ("ofa.train", "stopped and saved: start the same command again to continue")
ERROR = """the run ended with an error
Traceback (most recent call last):
  File "/code/ofa/train.py", line 1, in run_to_end
    x
ofa.journal.NotFinite: the loss of step 3 is nan: the run has diverged
Lower: optimizer.lr"""
FAILED = ("ofa.train", ERROR)


def start(folder, **values):
    """An attempt of job 17."""
    given = {"job": "17", "restart": 0, "nodes": ["n1"], "ranks": 1, "step": 0, "commit": None, **values}
    return write_start(folder.path, **given)


def look(folder, jobs=None):
    """Its row."""
    return row(look_at(folder.path), jobs or {})


def test_a_finished_run(make):
    found = look(make("a").begun().trained(100).finished().given_back())
    assert (found.state, found.step, found.total, found.error, found.eta) == (State.FINISHED, 100, 100, None, None)
    assert found.loss == pytest.approx(2.01) and found.sparsity == pytest.approx(0.495)
    assert found.tokens_per_second == 1000.0


def test_a_result_without_its_whole_model_is_not_finished(make):
    folder = make("a").begun().trained(100).finished().given_back()
    (folder.path / "model" / "model.safetensors").unlink()
    found = look(folder)
    assert found.state == State.UNFINISHED and "start the same command again" in found.error


def test_an_error_that_a_clean_end_has_followed_is_not_the_last(make):
    folder = make("a").begun().trained(8).saved(8).said(RUNNING, SAVED).given_back()
    write_end(folder.path, start(folder), status=-15, step=0, reason=UNSAVED, error="ended by SIGTERM")
    write_end(folder.path, start(folder), status=75, step=8, reason="stopped and saved")
    assert (look(folder).state, look(folder).error) == (State.STOPPED, None)


def test_a_run_that_was_told_to_end_as_it_took_its_lock_was_not_killed(make):
    folder = make("a").taken_by(HERE, ago=60)
    write_end(folder.path, start(folder), status=-15, step=0, reason=UNSAVED, error="ended by SIGTERM")
    assert (look(folder).state, look(folder).error) == (State.UNFINISHED, f"{UNSAVED}: ended by SIGTERM")


def test_a_run_that_goes_on_tells_nothing_of_an_error_before(make, hold):
    folder = make("a").begun().said(FAILED, RUNNING).trained(40)
    hold(folder)
    assert (look(folder).state, look(folder).step, look(folder).error) == (State.RUNNING, 40, None)


def test_the_time_left_is_that_of_its_own_pace_since_this_attempt_began(make, hold):
    folder = make("a").begun()
    hold(folder)
    began = (folder.path / "lock").stat().st_mtime
    before = [{"step": step, "lr": 1.0, "time": began - 1e6 + step} for step in range(20)]
    after = [{"step": step, "lr": 1.0, "time": began + 2.0 * (step - 19)} for step in range(20, 40)]
    folder.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in before + after))
    found = row(look_at(folder.path), {}, now=began + 40 + 10)
    assert found.step == 40 and found.eta == pytest.approx(60 * 2.0 - 10)
    assert row(look_at(folder.path), {}, now=began + 1e6).eta == 0


def test_a_run_that_is_starting_has_no_time_left_yet(make, hold):
    folder = make("a").begun()
    hold(folder)
    found = look(folder)
    assert (found.state, found.step, found.eta, found.loss) == (State.RUNNING, 0, None, None)


def test_a_run_that_saved_when_it_was_asked_to(make):
    found = look(make("a").begun().trained(7).said(FAILED, RUNNING, SAVED).saved(7).given_back())
    assert (found.state, found.step, found.saved_step, found.error) == (State.STOPPED, 7, 7, None)


def test_a_run_that_failed_says_why_on_one_line(make):
    found = look(make("a").begun().trained(3).said(RUNNING, SAVED, RUNNING, FAILED).given_back())
    assert found.state == State.FAILED
    assert found.error == "NotFinite: the loss of step 3 is nan: the run has diverged Lower: optimizer.lr"


def test_a_run_whose_other_rank_died_says_which(make):
    died = ("ofa.watch", "error: rank 1 (host n2, pid 5) is gone: start the same command again")
    found = look(make("a").begun().said(RUNNING, died).taken_by(HERE, ago=10))
    assert (found.state, found.error) == (State.FAILED, died[1].removeprefix("error: "))


def test_a_killed_run_is_no_failed_one_though_an_earlier_attempt_failed(make):
    folder = make("a").begun().trained(3).said(FAILED, ago=100).taken_by(HERE, ago=50)
    assert (look(folder).state, look(folder).error) == (State.KILLED, None)


@pytest.mark.parametrize(("ago", "every", "state"), [(60, 1, "running"), (300, 1, "killed"), (300, 200, "running")])
def test_a_run_of_another_machine_whose_lock_does_not_reach_this_one_runs_while_it_writes(make, ago, every, state):
    folder = make("a").begun().trained(5, every=every).taken_by("elsewhere", ago=1e4)
    now = (folder.path / "metrics.jsonl").stat().st_mtime + ago
    assert row(look_at(folder.path), {}, now=now).state == state


def test_a_run_that_began_and_tells_nothing_is_unfinished(make):
    assert look(make("a").begun().said(RUNNING).given_back()).state == State.UNFINISHED


def test_a_run_that_was_only_submitted(make):
    folder = make("a").write("jobs.json", json.dumps({"jobs": ["17"]}))
    assert (look(folder).state, look(folder).step) == (State.NEVER_STARTED, None)
    found = look(folder, {"17": QueuedJob("PENDING", "Resources")})
    assert (found.state, found.job, found.waits_for) == (State.PENDING, "17", "Resources")


BEFORE_IT_BEGAN = """submitit INFO (2026-01-01 12:00:00) - Starting with JobEnvironment(job_id=17)
Traceback (most recent call last):
  File "/code/ofa/__init__.py", line 1, in <module>
    raise ImportError("torn")
ImportError: torn
"""
SRUN = "srun: error: n1: task 0: Exited with exit code 1\n"
KILLED = "slurmstepd: error: Detected 1 oom_kill event in StepId=17.0"


def submitted(folder, log, *, job="17", ago=0.0):
    """A job that has been noted, and what its log says."""
    path = folder.path.parent / f"{job}_0_log.out"
    if log is not None:
        path.write_text(log)
        os.utime(path, (time.time() - ago,) * 2)
    note_job(folder.path, job, command="", log=path)
    return folder


@pytest.mark.parametrize(
    ("log", "ago", "error"),
    [
        (BEFORE_IT_BEGAN + SRUN, 0, "ImportError: torn"),
        (f"loading modules\n{KILLED}\n" + SRUN, 0, "slurmstepd: error: Detected 1 oom_kill event in StepId=17.0"),
        ("script: line 3: module: command not found\n", 1e4, "script: line 3: module: command not found"),
    ],
)
def test_a_job_that_died_before_its_run_began_has_failed(make, log, ago, error):
    folder = submitted(make("a"), log, ago=ago)
    assert (look(folder).state, look(folder).error) == (State.FAILED, error)
    assert look(folder, {"17": QueuedJob("RUNNING", "")}).error is None
    assert look(folder, {"17": QueuedJob("PENDING", "Resources")}).state == State.PENDING


@pytest.mark.parametrize("log", [None, "", BEFORE_IT_BEGAN.partition("Traceback")[0]])
def test_one_that_was_taken_out_of_the_queue_or_is_just_starting_has_not(make, log):
    assert look(submitted(make("a"), log)).state == State.NEVER_STARTED


def test_a_later_job_that_could_not_begin_hides_no_earlier_attempt_and_is_said(make):
    folder = make("a").begun().trained(8).saved(8).said(RUNNING, SAVED).given_back()
    write_end(folder.path, start(folder), status=75, step=8, reason="stopped and saved")
    submitted(folder, BEFORE_IT_BEGAN)
    assert look(folder).state == State.STOPPED, "the log of the job that ran"
    submitted(folder, BEFORE_IT_BEGAN, job="18")
    found = look(folder)
    assert (found.state, found.error, found.saved_step) == (State.FAILED, "ImportError: torn", 8)
    os.utime(folder.path / "lock", (time.time() + 60,) * 2)
    assert look(folder).state == State.STOPPED, "somebody ran it by hand since"


def test_a_job_that_waits_again_is_requeued_and_one_with_nodes_runs(make):
    folder = make("a").begun().trained(8).said(RUNNING, SAVED).given_back()
    write_end(folder.path, start(folder), status=75, step=8, reason="stopped and saved")
    assert look(folder).state == State.STOPPED
    assert look(folder, {"17": QueuedJob("PENDING", "BeginTime")}).state == State.REQUEUED
    assert look(folder, {"17": QueuedJob("RUNNING", "")}).state == State.RUNNING
    assert look(folder, {"18": QueuedJob("RUNNING", "")}).state == State.STOPPED
    start(folder, job="18")
    assert look(folder).attempts == 2
    assert look(folder, {"18": QueuedJob("PENDING", "Priority")}).state == State.REQUEUED


def test_a_crash_that_the_run_could_not_tell_of_is_told_by_who_started_it(make):
    folder = make("a").begun().trained(8).said(SAVED, ago=100).given_back()
    write_end(folder.path, start(folder), status=1, step=8, reason="crashed", error="error: no such module")
    assert (look(folder).state, look(folder).error) == (State.FAILED, "no such module")


def test_an_attempt_without_an_end_was_killed(make):
    folder = make("a").begun().trained(8).said(SAVED, ago=100).given_back()
    start(folder)
    assert look(folder).state == State.KILLED


def test_a_sweep_whose_process_crashed_says_why(make):
    folder = make("sweep").write("config.json", json.dumps({"config": {"script": "cofi"}, "cells": ["x"]}))
    write_end(folder.path, start(folder), status=1, step=0, reason="crashed", error="error: no such task")
    found = sweep_row(look_at(folder.path), [], {})
    assert (found.attempts, found.error) == (1, "error: no such task")


def test_who_goes_on_by_hand_after_a_job_is_believed(make):
    folder = make("a").begun()
    attempts = [{"attempt": 1, "event": "start", "time": "2026-01-01T00:00:00+00:00", "job": "17"}]
    attempts += [{"attempt": 1, "event": "end", "time": "2026-01-01T01:00:00+00:00", "status": 1, "error": "old"}]
    folder.write("attempts.jsonl", "".join(json.dumps(line) + "\n" for line in attempts))
    assert look(folder).state == State.FAILED
    folder.said(RUNNING, SAVED).given_back()
    assert look(folder).state == State.STOPPED


def test_a_folder_that_is_being_written_has_a_row(make, hold):
    folder = make("a").begun().trained(9)
    hold(folder)
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lr": 1e-')
    found = look(folder)
    assert found.state == State.RUNNING and found.step == 9


def test_checkpoints_tell_the_step_where_lines_are_rare(make):
    assert look(make("a").begun().trained(3).said(SAVED).saved(50).given_back()).step == 50


def test_a_loss_that_is_no_number_is_shown_as_it_is_written(make):
    assert look(make("a").begun().trained(3, loss="NaN").given_back()).loss == "NaN"


def test_a_damaged_record_is_named_and_costs_no_other_row(make):
    found = look(make("a").begun().trained(3).write("config.json", "{").given_back())
    assert "config.json is damaged" in found.error and found.step == 3
    found = look(make("b").begun().finished().write("model/recipe.json", "["))
    assert found.state == State.UNREADABLE and "recipe.json is damaged" in found.error


def test_only_the_ends_of_files_are_read(make):
    """A metrics.jsonl of a gigabyte, most of it a hole."""
    folder = make("a").begun().trained(20).given_back()
    lines = (folder.path / "metrics.jsonl").read_bytes()
    with (folder.path / "metrics.jsonl").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 30)
        file.write(b"\n" + lines)
    assert look(folder).step == 20


def sweep(make, *states, planned):
    """The row of a sweep whose cells have these states."""
    folder = make("sweep").write("config.json", json.dumps({"config": {"script": "cofi"}, "cells": ["x"] * planned}))
    cells = [look(make(f"sweep/{number}").write("jobs.json", "{}")) for number in range(len(states))]
    cells = [type(cell)(cell.run, state, error="why") for cell, state in zip(cells, states, strict=True)]
    return sweep_row(look_at(folder.path), cells, {})


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((State.FINISHED, State.FINISHED, State.FINISHED), State.FINISHED),
        ((State.FINISHED, State.FINISHED), State.UNFINISHED),
        ((State.FINISHED, State.STOPPED), State.STOPPED),
        ((State.FAILED, State.RUNNING, State.FINISHED), State.RUNNING),
        ((State.STOPPED, State.FAILED), State.FAILED),
        ((), State.NEVER_STARTED),
    ],
)
def test_a_sweep_is_what_its_cells_are(make, states, expected):
    found = sweep(make, *states, planned=3)
    assert (found.state, found.step, found.total) == (expected, states.count(State.FINISHED), 3)
    assert found.error == (f"{states.index(State.FAILED)}: why" if State.FAILED in states else None)


def test_a_sweep_whose_process_lives_runs_also_between_two_cells(make, hold):
    folder = make("sweep").write("config.json", json.dumps({"config": {"script": "cofi"}, "cells": ["x"]}))
    hold(folder)
    assert sweep_row(look_at(folder.path), [], {}).state == State.RUNNING


IN_USE = "error: run folder runs/a is in use by host n1, pid 7; stop that run or choose another --run-dir"


def test_a_start_that_was_refused_says_nothing_of_the_run_that_was_in_its_way(make, hold):
    """Neither while that goes on nor when it has ended."""
    folder = make("a").begun().trained(7).said(RUNNING)
    first = start(folder, job="1")
    write_end(folder.path, start(folder, job="2"), status=1, step=0, reason="crashed", error=IN_USE)
    folder.taken_by(HERE)
    assert (look(folder).state, look(folder).error, look(folder).attempts) == (State.KILLED, None, 1)
    folder.given_back()
    write_end(folder.path, first, status=75, step=7, reason="stopped and saved")
    assert (look(folder).state, look(folder).error) == (State.STOPPED, None)
    hold(folder)
    assert (look(folder).state, look(folder).error) == (State.RUNNING, None)


def test_words_of_a_library_hide_no_failure(make):
    folder = make("a").begun().trained(7).said(RUNNING).given_back()
    error = "RuntimeError: the address is in use by another process; stop that run or choose another --run-dir"
    write_end(folder.path, start(folder), status=1, step=0, reason="crashed", error=error)
    assert (look(folder).state, look(folder).error, look(folder).attempts) == (State.FAILED, error, 1)


def test_a_start_is_known_to_be_refused_by_what_it_says(make, hold):
    folder = make("a")
    hold(folder)
    with pytest.raises(RunFolderError) as refused:
        RunFolder(folder.path).acquire()
    assert is_in_use(f"error: {refused.value}") and is_in_use(f"{refused.value}; rank 1 was lost")


def test_what_saved_and_was_not_queued_again_is_given_up_and_says_why(make):
    folder = make("a").begun().trained(7).said(RUNNING, SAVED).saved(7).given_back()
    why = "neither done nor a step saved by the time limit: choose a longer --time"
    write_end(folder.path, start(folder), status=75, step=7, reason="out of time", error=why)
    assert (look(folder).state, look(folder).error) == (State.GIVEN_UP, why)


def test_what_was_told_to_end_before_it_could_save_has_not_failed(make):
    """There is nothing to mend."""
    folder = make("a").begun().given_back()
    write_end(folder.path, start(folder), status=-15, step=0, reason=UNSAVED, error="ended by SIGTERM")
    assert (look(folder).state, look(folder).error) == (State.UNFINISHED, f"{UNSAVED}: ended by SIGTERM")


def test_a_job_of_this_machine_that_has_yet_to_take_the_lock_runs(make, tmp_path):
    folder = make("a").begun().trained(7).said(RUNNING, SAVED).given_back()
    note_job(folder.path, "1", command="", log=tmp_path / "log", process=os.getpid())
    start(folder, job="1")
    assert look(folder).state == State.RUNNING
