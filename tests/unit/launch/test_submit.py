"""The command line of a chain of jobs, and its mistakes; what needs a Slurm stands in tests/slurm."""

import json

import pytest

from tests.commands import command, refused
from tests.corpora import write_corpus
from tests.e2e.conftest import TINY


@pytest.fixture
def project(tmp_path):
    """A folder with a config and its data."""
    write_corpus(tmp_path / "data", rows=30)
    (tmp_path / "mine.json").write_text(json.dumps(TINY))
    return tmp_path


RUN = ("launch/pretrain.py", "--config", "mine.json")
LOCAL = ("--cluster", "local")


def test_a_dry_run_shows_every_command_of_the_chain_and_writes_nothing(project):
    """What one link says of itself alone does not reach the next: its array, its script and arguments."""
    first = ("--tasks-per-node", "2", "--each", "seed=1,2", *RUN, "--set", "optimizer.lr=1e-4")
    then = ("--then", *RUN, "--run-dir", "runs/b", "--then", "data_prep", "--config", "tiny/docstrings.json")
    answer = command("submit.py", *LOCAL, "--dry-run", *first, *then, cwd=project)
    assert answer.status == 0, answer
    lines = answer.out.splitlines()
    assert len(lines) == 4
    assert [part in lines[0] for part in ("--run-dir runs/mine-seed=1", "seed=1", "optimizer.lr=1e-4")] == [True] * 3
    assert "--run-dir runs/b" in lines[2] and "seed" not in lines[2]
    assert lines[3].startswith("python -m data_prep --config ")
    assert not (project / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("launch/nothing.py",), ["launch/nothing.py", "no script"]),
        (("--nodes", "4-2", *RUN), ["--nodes 4-2", "a range such as 1-4"]),
        (("--gpus-per-node", "2", "--tasks-per-node", "2", *RUN), ["--tasks-per-node is for nodes without GPUs"]),
        (("--sbatch", "Reservation", *RUN), ["--sbatch Reservation"]),
        (("--time", "2m", "--grace", "2m", *RUN), ["a grace of 120 s leaves nothing of 2 minutes"]),
        (("--time", "3m", "--grace", "150", *RUN), ["leaves 30 s of 3 minutes, and a run needs 60 s to start"]),
        (("--time", "4m", "--grace", "121", *RUN), ["leaves 119 s of 4 minutes", "Slurm may signal 60 s early"]),
        (("--each", "seed", *RUN), ["--each seed: expected"]),
        (("--gpus-per-node", "999", *RUN), ["--gpus-per-node 999: this machine has "]),
        ((*RUN, "--then", *RUN), ["two jobs would have the run folder runs/mine"]),
        ((*RUN, "--set", "optimizer.lr=-1"), ["optimizer.lr"]),
        (("--nodes", "2", *RUN), ["--cluster local has one node"]),
        ((*RUN, "--then", "--nodes", "2", *RUN, "--run-dir", "runs/b"), ["--cluster local has one node"]),
        ((*RUN, "--then", "launch/report.py"), ["report: the following arguments are required: DIR"]),
    ],
)
def test_mistakes_are_refused_and_leave_nothing(project, arguments, words):
    refused(project, *LOCAL, *arguments, words=words, script_name="submit.py")


def test_a_limit_without_a_unit_is_asked_about(project):
    """60 are minutes to sbatch, and seconds to other options."""
    answer = command("submit.py", *LOCAL, "--time", "60", *RUN, cwd=project)
    assert answer.status == 2 and "--time: 60 of what? say 60m for minutes, 60h or 60s" in answer.err


def test_an_array_over_configs_needs_no_other_config(project):
    (project / "other.json").write_bytes((project / "mine.json").read_bytes())
    answer = command("submit.py", *LOCAL, "--dry-run", "--each", "config=mine.json,other.json", "pretrain", cwd=project)
    assert answer.status == 0, answer
    for line, name in zip(answer.out.splitlines(), ("mine", "other"), strict=True):
        assert f"/{name}.json" in line and f"--run-dir runs/{name}" in line


def test_debug_has_one_process(project):
    two = ("--cluster", "debug", "--tasks-per-node", "2", *RUN)
    refused(project, *two, words=["--cluster debug has one process"], script_name="submit.py")


@pytest.mark.parametrize("option", ["--dry-run", "--follow", "--uncommitted", "--cluster=debug", "--jobs=x"])
def test_what_holds_for_the_whole_chain_is_not_said_in_its_middle(project, option):
    """Least of all --dry-run, to be passed over."""
    answer = command("submit.py", *LOCAL, *RUN, "--then", option, *RUN, "--run-dir", "runs/b", cwd=project)
    assert answer.status == 2 and "holds for the whole chain: give it before the first script" in answer.err
    assert not (project / "runs").exists()


def test_slurm_is_told_how_long(project):
    answer = command("submit.py", *RUN, cwd=project)
    assert answer.status == 2 and "--time says how long" in answer.err


def test_without_a_script_there_is_no_job(project):
    for arguments in ((), (*RUN, "--then")):
        answer = command("submit.py", *LOCAL, *arguments, cwd=project)
        assert answer.status == 2 and "required: SCRIPT" in answer.err
