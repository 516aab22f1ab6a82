"""What is asked for, against what a Slurm says that it has."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from ofa.cluster.partitions import check, parse
from ofa.cluster.resources import Resources, check_options, minutes
from ofa.sections.nodes import node_list, node_range
from ofa.slurm.errors import SubmitError

SINFO = """\
cpu*|up|10|64|257000|(null)|1-00:00:00
gpu|up|3|96|1030000|gpu:a100:4(S:0-1)|12:00:00
gpu|up|2|128|2060000|gpu:h100:8(S:0-1),gpu:h100_mig:1|12:00:00
night|down|2|64|257000|gpu:2|infinite
"""


def test_lines_of_sinfo_are_read():
    groups = parse(SINFO)
    assert [group.partition for group in groups] == ["cpu", "gpu", "gpu", "night"]
    assert [group.is_default for group in groups] == [True, False, False, False]
    assert [group.gpus for group in groups] == [0, 4, 9, 2]
    assert [group.minutes for group in groups] == [1440, 720, 720, float("inf")]
    assert (groups[1].cpus, groups[1].megabytes) == (96, 1030000)


FITS = Resources(nodes=(2, 5), gpus_per_node=4, partition="gpu", minutes=700, cpus_per_task=12, mem_gb=1000)


@pytest.mark.parametrize(
    "asked",
    [
        Resources(),
        Resources(nodes=(10, 20)),
        FITS,
        replace(FITS, gpus_per_node=8),
        replace(FITS, partition="cpu,gpu"),
        replace(FITS, partition="gpu,night"),
    ],
)
def test_what_there_is_is_granted(asked):
    check(asked, parse(SINFO))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"partition": "gpus"}, ["--partition gpus", "did you mean gpu?"]),
        ({"partition": "xyz"}, ["known: cpu, gpu, night"]),
        ({"partition": "gpu,xyz"}, ["--partition xyz"]),
        ({"partition": "cpu,night"}, ["partition cpu,night has at most 2 GPUs"]),
        ({"partition": "night"}, ["partition night is down"]),
        ({"gpus_per_node": 16}, ["--gpus-per-node 16", "partition gpu has at most 9 GPUs"]),
        ({"partition": None}, ["partition cpu has at most 0 GPUs"]),
        ({"nodes": (6, 9)}, ["--nodes 6", "5 nodes"]),
        ({"nodes": (3, 9), "gpus_per_node": 8}, ["--nodes 3", "2 nodes with what is asked for"]),
        ({"cpus_per_task": 40}, ["4 processes of 40 CPUs", "at most 128 CPUs"]),
        ({"mem_gb": 3000}, ["--mem 3000", "2011.7 GB"]),
        ({"minutes": 800}, ["800 minutes", "720 of partition gpu"]),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(change, words):
    with pytest.raises(SubmitError) as caught:
        check(replace(FITS, **change), parse(SINFO))
    assert not [word for word in words if word not in str(caught.value)], caught.value


def test_a_slurm_without_a_default_partition_asks_for_one():
    with pytest.raises(SubmitError, match="no default partition: say --partition, one of cpu, gpu, night"):
        check(Resources(), parse(SINFO.replace("*", "")))


def test_numbers_of_nodes_and_what_they_mean_for_ranks():
    assert node_range("4") == (4, 4) and node_range("1-4") == (1, 4)
    assert node_range("1,2,4") == (1, 4) and node_list("1,2,4") == (1, 2, 4) and node_list("1-4") == ()
    assert Resources(nodes=(1, 4), only=(1, 2, 4), gpus_per_node=8).rank_counts() == [8, 16, 32]
    assert Resources(nodes=(1, 3), gpus_per_node=8).rank_counts() == [8, 16, 24]
    assert Resources(nodes=(2, 2), tasks_per_node=3).rank_counts() == [6]
    for wrong in ("0", "4-2", "0-2", "two", "1-", "-1", "", "1,", "2,1", "1,1", "0,1", "1-2,4"):
        with pytest.raises(ValueError, match=f"^{wrong}: expected a number such as 4, a range"):
            node_range(wrong)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Resources(), "1 node of 1 process"),
        (Resources(nodes=(2, 2), tasks_per_node=3), "2 nodes of 3 processes"),
        (Resources(nodes=(1, 4), gpus_per_node=8), "1 to 4 nodes of 8 GPUs"),
        (Resources(nodes=(1, 4), only=(1, 2, 4), gpus_per_node=8), "1, 2, 4 nodes of 8 GPUs"),
        (Resources(gpus_per_node=1, tasks_per_node=1), "1 node of 1 GPU"),
        (Resources(gpus_per_node=8, tasks_per_node=1), "1 node of 8 GPUs and 1 process"),
    ],
)
def test_what_is_asked_for_is_said_as_it_is(asked, words):
    assert asked.in_words() == words


def test_limits_are_whole_minutes():
    assert [minutes(seconds) for seconds in (1, 60, 61, 3600)] == [1, 1, 2, 60]


@pytest.mark.parametrize("wrong", ["=x", "", "--", "a b", "X=1"])
def test_what_is_no_option_of_sbatch_is_refused(wrong):
    with pytest.raises(SubmitError, match="expected an option of sbatch"):
        check_options([wrong])


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("array=1-3", "--each"),
        ("nodes=2", "--nodes"),
        ("--time=1:00:00", "--time"),
        ("gpus=3", "--gpus-per-node"),
        ("ntasks=3", "--tasks-per-node"),
        ("signal=USR1@60", "--grace"),
        ("output=x", "--jobs"),
        ("no-requeue", "--max-requeues 0"),
        ("partition=gpu", "--partition"),
    ],
)
def test_options_that_are_written_anyway_are_refused_with_ours(option, instead):
    with pytest.raises(SubmitError, match=rf"^--sbatch {option}: .*{instead}"):
        check_options([option])


@pytest.mark.parametrize(
    ("own", "chain", "found"),
    [
        ((), None, None),
        ((), "afterok:7", "afterok:7"),
        (("dependency=singleton",), None, "singleton"),
        (("dependency=afterany:3", "dependency=singleton"), "afterok:7", "afterok:7,afterany:3,singleton"),
    ],
)
def test_a_job_waits_for_its_chain_and_for_what_else_it_was_told(own, chain, found):
    check_options(own)
    parameters = Resources(other=own).parameters("a", Path("code"), chain)
    assert parameters.get("dependency") == found
    assert "dependency" not in parameters["additional_parameters"]
    assert parameters["additional_parameters"].get("kill-on-invalid-dep") == (found and "yes")


def test_one_of_several_jobs_to_wait_for_cannot_be_joined_to_a_chain():
    with pytest.raises(SubmitError, match=r"--sbatch dependency=afterok:1\?afterok:2: "):
        check_options(["dependency=afterok:1?afterok:2"])
    with pytest.raises(SubmitError, match="--sbatch dependency: "):
        check_options(["dependency"])


def test_other_options_reach_sbatch_as_they_are():
    more = Resources(other=("reservation=night", "--exclusive")).parameters("a", Path("code"), None)
    own = {"requeue": True, "signal": "USR2@120"}
    assert more["additional_parameters"] == {**own, "reservation": "night", "exclusive": True}


@pytest.mark.parametrize(
    ("setup", "status", "out", "err"),
    [
        (("export A='x y'", 'echo "$A"'), 0, "x y\n{code}\n", ""),
        (("echo a", "no_such_module load cuda  # ours", "echo b"), 1, "a\n", "no_such_module load cuda  # ours"),
        (("echo a; (exit 7)",), 1, "a\n", "error: this failed before the run: echo a; (exit 7)"),
    ],
)
def test_what_comes_before_the_run_ends_the_job_where_it_fails(tmp_path, setup, status, out, err):
    """On an environment that is not the right one, the run would go on with something else or fail later."""
    lines = Resources(setup=setup).parameters("a", tmp_path, None)["setup"]
    done = subprocess.run(["bash", "-c", "\n".join([*lines, "pwd"])], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (status, out.format(code=tmp_path))
    assert err in done.stderr and ("error: " in done.stderr) == bool(status)


def test_a_copy_of_the_code_that_is_gone_ends_the_job(tmp_path):
    lines = Resources().parameters("a", tmp_path / "gone", None)["setup"]
    assert subprocess.run(["bash", "-c", "\n".join([*lines, "exit 0"])], capture_output=True).returncode == 1


@pytest.mark.parametrize(("there", "used"), [(1, 1), (2, 2), (3, 2), (4, 4)])
def test_of_listed_numbers_of_nodes_the_most_that_the_job_has_are_used(tmp_path, there, used):
    """By srun, to which these variables are options."""
    parameters = Resources(nodes=(1, 4), only=(1, 2, 4), tasks_per_node=2).parameters("a", tmp_path, None)
    assert parameters["additional_parameters"]["nodes"] == "1-4"
    told = 'echo "$SLURM_NNODES $SLURM_JOB_NUM_NODES ${SLURM_NTASKS-none} ${SLURM_NPROCS-none}"'
    numbers = {"SLURM_NNODES": f"{there}", "SLURM_JOB_NUM_NODES": f"{there}"}
    own = {**os.environ, **numbers, "SLURM_NTASKS": f"{2 * there}", "SLURM_NPROCS": f"{2 * there}"}
    script = "\n".join([*parameters["setup"], told])
    done = subprocess.run(["bash", "-c", script], env=own, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{used} {used} none none\n"), done.stderr
