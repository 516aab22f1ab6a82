"""Jobs of this machine, without Slurm."""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ofa.cluster.attempts import ATTEMPTS_FILE, read_attempts, write_end, write_start
from ofa.cluster.command import ScriptCall
from ofa.cluster.errors import StepFailed
from ofa.cluster.here import check_here, meaningless_here, run_here, start_here
from ofa.cluster.jobs_file import live_local_job, note_job
from ofa.cluster.resources import Resources
from ofa.cluster.shares import cores_at, fitting
from ofa.cluster.submit import Link
from ofa.cluster.verdict import Limits
from ofa.slurm.errors import SubmitError

HELP = ("--help",)


def link(*arguments):
    """A job that looks at a run."""
    return Link((ScriptCall("verify", None, None, arguments),), Resources(), Limits(), 1)


def test_a_job_that_is_followed_to_its_end_is_said_to_have_ended_as_it_did(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SubmitError, match="verify failed"):
        run_here([link("--help"), link("nowhere")], "local", tmp_path / "jobs", watch=True, begun=print)
    said = [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines() if line.startswith("job ")]
    assert [state for state in said if state != "RUNNING"] == ["COMPLETED", "FAILED"]


def test_an_array_of_which_one_fails_is_waited_for_and_followed_as_it_grows(tmp_path, monkeypatch, capsys):
    """The first one's log is there before the last one begins; each line says whose it is."""
    monkeypatch.chdir(tmp_path)
    seen = []
    given = {"a": ("nowhere",), "b": HELP}
    calls = [ScriptCall("verify", None, Path("runs", name), words) for name, words in given.items()]
    chain = [Link((*calls, *calls[1:]), Resources(), Limits(), at_a_time=1), link("--help")]
    monkeypatch.setattr("ofa.cluster.here.check_free_here", lambda _: seen.append(capsys.readouterr().out))
    with pytest.raises(StepFailed, match="verify:a failed") as caught:
        run_here(chain, "local", tmp_path / "jobs", watch=True, begun=lambda _: None)
    assert caught.value.step == 0 and "verify:b" not in str(caught.value)
    assert len(read_attempts(Path("runs", "b"))) == 2, "those after the failed one were done, to the end"
    assert not seen[0] and "verify:a: " in seen[1] and "verify:b: usage" in seen[2]
    last = capsys.readouterr().out.splitlines()
    assert last and all(line.startswith("verify:b: ") for line in last)


def test_an_array_has_as_many_jobs_side_by_side_as_it_may(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = tuple(ScriptCall("verify", None, Path("runs", name), ("--help",)) for name in "abc")
    array = Link(calls, Resources(), Limits(), at_a_time=1)
    run_here([array, link("--help")], "local", tmp_path / "jobs", watch=False, begun=print)
    assert [read_attempts(call.run_dir)[0].end.status for call in calls] == [0, 0, 0]
    ends = [(call.run_dir / "attempts.jsonl").stat().st_mtime_ns for call in calls]
    begins = [(call.run_dir / "jobs.json").stat().st_mtime_ns for call in calls]
    assert all(end <= begin for end, begin in zip(ends, begins[1:], strict=False))


def write_old_attempt(folder, job):
    """One that ended well, years ago, of a job whose process had the number that another one has now."""
    number = write_start(folder, job=job, restart=0, nodes=["here"], ranks=1, step=0, commit=None)
    write_end(folder, number, status=0, step=0, reason="done")
    file = folder / ATTEMPTS_FILE
    file.write_text(file.read_text().replace('"time": "20', '"time": "19'))


def test_a_job_that_could_not_begin_has_not_ended_as_an_older_one_of_its_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ofa").mkdir()
    (tmp_path / "ofa" / "__init__.py").write_text("raise ImportError('torn')")

    def begun(one):
        write_old_attempt(one.attempts, one.job)

    with pytest.raises(SubmitError, match="verify failed: .*torn"):
        run_here([link("--help"), link("--help")], "local", tmp_path / "jobs", watch=False, begun=begun)


def test_a_job_that_has_yet_to_begin_lives_though_an_older_one_of_its_number_has_ended(tmp_path):
    job = str(os.getpid())
    write_old_attempt(tmp_path, job)
    note_job(tmp_path, job, command="", log=tmp_path / "log", process=os.getpid())
    live = live_local_job(tmp_path)
    assert live is not None and live.job == job


def environment_of(submitted):
    """What the process of a job was started with."""
    text = Path("/proc", submitted.job, "environ").read_text()
    return dict(pair.split("=", 1) for pair in text.split("\0") if pair)


def test_jobs_side_by_side_share_out_the_gpus_that_this_process_sees(tmp_path, monkeypatch):
    """What was free again goes to the next; a job that asks for no GPU sees none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,8")
    begun = []
    calls = tuple(ScriptCall("verify", None, Path("runs", name), ("--help",)) for name in "abc")
    chain = [Link(calls, Resources(gpus_per_node=2), Limits(), at_a_time=2), link("--help")]
    run_here(chain, "local", tmp_path / "jobs", watch=True, begun=lambda one: begun.append(environment_of(one)))
    seen = [one["CUDA_VISIBLE_DEVICES"] for one in begun]
    assert seen[:2] == ["3,5", "6,8"] and seen[2] in seen[:2] and seen[3] == ""
    cores = len(os.sched_getaffinity(0))
    assert [one["OMP_NUM_THREADS"] for one in begun[:3]] == [str(max(1, cores // 4))] * 3


def test_jobs_side_by_side_share_out_the_cores(tmp_path, monkeypatch):
    """Those of several processes too, in which OMP_NUM_THREADS says nothing."""
    monkeypatch.chdir(tmp_path)
    own, begun = os.sched_getaffinity(0), []
    calls = tuple(ScriptCall("verify", None, Path("runs", name), ("--help",)) for name in "ab")
    chain = [Link(calls, Resources(tasks_per_node=2), Limits(), at_a_time=2), link("--help")]

    def note(one):
        begun.append(os.sched_getaffinity(int(one.job)))

    run_here(chain, "local", tmp_path / "jobs", watch=True, begun=note)
    each = max(1, len(own) // 2)
    assert [len(cores) for cores in begun] == [each, each, len(own)] and os.sched_getaffinity(0) == own
    assert begun[0] | begun[1] <= own and (len(own) == 1 or not begun[0] & begun[1])


def test_a_place_has_its_cores_and_shares_them_where_there_are_too_few(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 5, 6, 7, 9})
    assert [cores_at(place, 2) for place in range(3)] == [{4, 5}, {6, 7}, {9, 4}]
    assert cores_at(3, 7) == {4, 5, 6, 7, 9}


def test_as_many_jobs_run_at_a_time_as_there_are_gpus_or_cores_for(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6")
    assert [fitting(Resources(gpus_per_node=number)) for number in (1, 2, 3, 4)] == [3, 1, 1, 1]
    cores = len(os.sched_getaffinity(0))
    assert fitting(Resources()) == fitting(Resources(cpus_per_task=1)) == cores
    assert fitting(Resources(tasks_per_node=cores, cpus_per_task=2)) == 1


@pytest.mark.parametrize("visible", ["3", "-1", ""])
def test_more_gpus_than_there_are_to_see_are_refused(monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    asked = dataclasses.replace(link(), resources=Resources(gpus_per_node=2))
    with pytest.raises(SubmitError, match=f"--gpus-per-node 2: this machine has {int(visible == '3')} GPUs"):
        check_here([link(), asked], "local")


def test_of_two_that_are_submitted_at_once_for_a_run_one_is_refused(tmp_path, monkeypatch):
    """Before the first has come to take the lock of the run folder."""
    monkeypatch.chdir(tmp_path)
    call = ScriptCall("verify", None, Path("runs", "a"), ("--help",))
    one = dataclasses.replace(link(), calls=(call,))
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(start_here, one, "local", tmp_path / "jobs") for _ in range(2)]
    refused = [done.exception() for done in asked if done.exception()]
    (((submitted, job),),) = [done.result() for done in asked if not done.exception()]
    words = f"run folder runs/a: job {submitted.job} of this machine runs for it: kill {submitted.job} first"
    assert [str(error).startswith(words) for error in refused] == [True]
    assert job.results() == [0]
    ((_, again),) = start_here(one, "local", tmp_path / "jobs")
    assert again.results() == [0]


@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_commands_of_the_shell_are_refused_where_there_is_no_job_to_run_them(cluster):
    asked = dataclasses.replace(link(), resources=Resources(setup=("module load cuda",)))
    with pytest.raises(SubmitError, match=f"--cluster {cluster} .*give the commands of --setup here"):
        check_here([asked], cluster)


def test_what_only_slurm_knows_is_named():
    asked = Resources(partition="gpu", cpus_per_task=2, mem_gb=0, other=("reservation=x",))
    chain = [link(), dataclasses.replace(link(), resources=asked)]
    assert meaningless_here(chain) == ["--partition", "--mem", "--sbatch"]
    assert meaningless_here([link()]) == []
