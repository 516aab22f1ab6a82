"""What is said of jobs that were submitted, with programs in place of Slurm's where a real one would have to fail."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ofa.cluster.attempts import write_end, write_start
from ofa.cluster.command import ScriptCall
from ofa.cluster.follow import FORGOTTEN, UNKNOWN, follow, job_state
from ofa.cluster.jobs_file import note_job, noted_jobs
from ofa.cluster.queue import is_running
from ofa.cluster.resources import Resources
from ofa.cluster.submit import Link, Submitted, check_chain, submit
from ofa.cluster.verdict import Limits
from ofa.slurm.commands import SlurmError, ask
from ofa.slurm.errors import SubmitError
from ofa.slurm.snapshot import Code


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a program on the path."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)

    def put(name, text):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    return put


def link(name):
    """A job that verifies a folder."""
    call = ScriptCall("pretrain", None, Path("runs", name), ())
    return Link((call,), Resources(), Limits(), 1)


FIRST_ONLY = """
if [ -e once ]; then echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; fi
touch once; echo "Submitted batch job 17"
"""


@pytest.mark.parametrize(
    ("scancel", "end"), [("exit 0", "nothing is queued"), ("exit 1", "still queued, cancel them: scancel 17")]
)
def test_a_chain_is_queued_whole_or_what_is_left_of_it_is_named(program, tmp_path, scancel, end):
    program("srun", "")
    program("sbatch", FIRST_ONLY)
    program("scancel", f'echo "$@" >> cancelled; {scancel}')
    with pytest.raises(SubmitError, match=rf"pretrain:b: .*QOSMaxSubmitJobPerUserLimit.*; {end}$"):
        submit([link("a"), link("b")], tmp_path / "jobs", Code(tmp_path, None))
    assert (tmp_path / "cancelled").read_text() == "17\n"


SUBMITS = """
from pathlib import Path
from ofa.cluster.command import ScriptCall
from ofa.cluster.resources import Resources
from ofa.slurm.snapshot import Code
from ofa.cluster.submit import Link, scripts, submit
from ofa.cluster.verdict import Limits
chain = [Link((ScriptCall("pretrain", None, Path("runs/a"), ()),), Resources(), Limits(), 1)]
print(*scripts(chain, Path("jobs"), Code(Path(), None)))
submit(chain, Path("jobs"), Code(Path(), None))
"""


def test_a_run_is_asked_to_save_by_the_signal_that_it_listens_to(program, tmp_path):
    """Whatever a user has told submitit, for jobs of another kind."""
    program("srun", "")
    program("sbatch", 'env > environment; cat "$1" > script; echo "Submitted batch job 17"')
    env = {**os.environ, "SUBMITIT_PREEMPT_SIGNAL": "USR1"}
    done = subprocess.run([sys.executable, "-c", SUBMITS], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for script in (done.stdout, (tmp_path / "script").read_text()):
        assert "#SBATCH --signal=USR2@120\n" in script and "USR1" not in script
    assert "PREEMPT_SIGNAL" not in (tmp_path / "environment").read_text()


def test_who_interrupts_a_chain_that_is_being_queued_leaves_none_of_it_behind(program, tmp_path, capsys):
    """Ctrl-C while `sbatch` has a second job."""
    program("srun", "")
    program("sbatch", 'if [ -e once ]; then kill -INT $PPID; sleep 2; fi; touch once; echo "Submitted batch job 17"')
    program("scancel", 'echo "$@" >> cancelled')
    with pytest.raises(KeyboardInterrupt):
        submit([link("a"), link("b")], tmp_path / "jobs", Code(tmp_path, None))
    assert "pretrain:b: interrupted; nothing is queued" in capsys.readouterr().err
    assert (tmp_path / "cancelled").read_text() == "17\n"


def test_a_job_whose_run_folder_cannot_be_written_is_taken_back(program, tmp_path):
    program("srun", "")
    program("sbatch", FIRST_ONLY)
    program("scancel", 'echo "$@" >> cancelled')
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(SubmitError, match="Not a directory.*nothing is queued"):
        submit([link("a")], tmp_path / "jobs", Code(tmp_path, None))
    assert (tmp_path / "cancelled").read_text() == "17\n"


def test_what_sbatch_says_is_shown_where_it_makes_no_sense(program, tmp_path):
    program("srun", "")
    program("sbatch", "echo maybe")
    with pytest.raises(SubmitError, match="maybe.*nothing is queued"):
        submit([link("a")], tmp_path / "jobs", Code(tmp_path, None))


def test_a_run_folder_that_has_a_job_in_the_queue_is_refused(program, tmp_path):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "jobs.json").write_text(json.dumps({"jobs": [{"job": "16"}, {"job": "17_2"}]}))
    program("sinfo", "")
    program("squeue", 'echo "17_2|PENDING|Priority"')
    with pytest.raises(SubmitError, match="run folder runs/a: job 17_2 is PENDING for it: scancel 17_2 first"):
        check_chain([link("a")], slurm=True)


@pytest.mark.parametrize(("user", "name"), [(os.getuid() + 1, "pretrain:a"), (os.getuid(), "pretrain:b")])
def test_a_job_that_only_has_the_number_of_an_old_one_keeps_no_run_folder(program, tmp_path, user, name):
    """Nor is its number given to `scancel`."""
    note_job(tmp_path / "runs" / "a", "17", command="", log=tmp_path / "log", name="pretrain:a")
    program("squeue", f'echo "17|RUNNING|None|{user}|{name}"')
    program("sinfo", "echo 'debug*|up|1|2|4000|(null)|infinite'")
    with pytest.raises(SubmitError) as caught:
        check_chain([link("a")], slurm=True)
    assert "17" not in str(caught.value), "it has come further, to its missing config"


def test_jobs_that_are_submitted_at_once_are_all_noted(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda job: note_job(tmp_path, str(job), command="", log=tmp_path / "log"), range(40)):
            pass
    assert sorted(int(one.job) for one in noted_jobs(tmp_path)) == list(range(40))


def ended(tmp_path, status):
    """A job of an array whose last attempt on record has ended so."""
    one = Submitted("17_3", ScriptCall("verify", None, None, ()), tmp_path / "17_3_0_log.out")
    number = write_start(one.attempts, job="17_3", restart=0, nodes=["n"], ranks=1, step=0, commit=None)
    if status is not None:
        write_end(one.attempts, number, status=status, step=0, reason="x")
    return one


@pytest.mark.parametrize(("status", "well"), [(0, True), (1, False), (75, False), (None, False)])
def test_how_a_job_ended_that_slurm_has_forgotten_is_told_by_its_record(tmp_path, status, well):
    """As of an array's first runs, when the last of them is followed."""
    one = ended(tmp_path, status)
    assert one.ended_well(FORGOTTEN) == well
    assert one.ended_well("COMPLETED") and not one.ended_well("FAILED"), "Slurm knows better, while it knows"


def test_a_controller_that_does_not_answer_ends_no_following(program, tmp_path, capsys):
    answers = iter([(UNKNOWN, "scontrol says: no"), ("RUNNING", ""), (FORGOTTEN, "")])
    (tmp_path / "log").write_text("step 1\n")
    assert follow("17", tmp_path / "log", lambda _: next(answers), every=0.0) == FORGOTTEN
    said = capsys.readouterr()
    assert said.out == "step 1\n"
    assert said.err.splitlines() == ["job 17: UNKNOWN (scontrol says: no)", "job 17: RUNNING", "job 17: FORGOTTEN"]


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("echo 'JobId=17 JobName=a=b JobState=PENDING Reason=Resources Dependency=(null)'", ("PENDING", "Resources")),
        ("echo 'JobId=17 JobState=RUNNING Reason=None'", ("RUNNING", "")),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", (FORGOTTEN, "")),
        ("echo no answer >&2; exit 1", (UNKNOWN, "scontrol says: no answer")),
    ],
)
def test_the_state_of_a_job_is_in_slurms_words(program, text, state):
    program("scontrol", text)
    assert job_state("17") == state


@pytest.mark.parametrize(
    ("state", "runs"),
    [("RUNNING", True), ("SIGNALING", True), ("COMPLETING", False), ("PENDING", False), ("CANCELLED", False)],
)
def test_a_job_to_which_slurm_is_just_sending_a_signal_runs(program, state, runs):
    """Taken for one that was taken back, it would not be queued again."""
    program("scontrol", f"echo 'JobId=17 JobState={state} Reason=None'")
    assert is_running("17") == runs


def test_a_command_that_fails_or_hangs_says_so_but_for_what_is_forgiven(program):
    program("squeue", 'echo found; echo "$1" >&2; exit 3')
    assert ask("squeue", "no such job", forgiven="no such") == "found\n"
    with pytest.raises(SlurmError, match="squeue says: no such job"):
        ask("squeue", "no such job", forgiven="another")
    program("squeue", "exit 4")
    with pytest.raises(SlurmError, match="squeue says: status 4"):
        ask("squeue")
    program("squeue", "exec sleep 9")
    with pytest.raises(SlurmError, match="did not answer within 1 s"):
        ask("squeue", patience=0.6)
    with pytest.raises(SlurmError, match="there is no sbatch_of_nobody here"):
        ask("sbatch_of_nobody")
