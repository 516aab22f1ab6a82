"""Chains and arrays of jobs, crashes that repeat, and mistakes that are found before anything is queued."""

import json
import sys

import pytest

from ofa.cluster.attempts import read_attempts
from tests import processes
from tests.run_files import model_bytes
from tests.slurm.test_submit import SHORT, check_continued, ended, held, high_job, log, row, wait_for

pytestmark = pytest.mark.slurm

NAMED = ("README.md", "recipe.json")
"""Files of a model that have its run's name in them."""

ON_ONE = ("launch/pretrain.py", "--config", "long.json", *SHORT)


def test_a_crash_that_repeats_is_stopped_with_its_error_shown(cluster, project, submit):
    """The third time that it comes no further: here at once, since what it needs was taken away while it waited."""
    (project / "gone").symlink_to("data")
    hold = ("--sbatch", "hold")
    _, (job,) = submit(*hold, *ON_ONE, "--run-dir", "runs/crashing", "--set", "data.path=gone")
    (project / "gone").unlink()
    seen = row(cluster, project, project / "runs" / "crashing")
    assert (seen["state"], seen["job"], seen["waits_for"]) == ("pending", job, "JobHeldUser")
    cluster.call("scontrol", "release", job)
    said = ended(cluster, project, job, "FAILED").rpartition("attempt 1 of ")[2]  # another file's job had its number
    attempts = read_attempts(project / "runs" / "crashing")
    assert [attempt.restart for attempt in attempts] == [0, 1, 2]
    assert {attempt.end.reason for attempt in attempts} == {"crashed"}
    assert "3 times in a row at step 0" in attempts[-1].end.error and "gone" in attempts[-1].end.error
    assert said.count("queueing job") == 2 and attempts[-1].end.error in said
    seen = row(cluster, project, project / "runs" / "crashing")
    assert (seen["state"], seen["attempts"]) == ("failed", 3) and "3 times in a row at step 0" in seen["error"]


def test_a_chain_goes_on_where_one_job_has_succeeded(cluster, project, submit):
    """The second run starts from the model that the first one makes; the third job is of one process."""
    model = "runs/first/model"
    first = ("--nodes", "2", *ON_ONE, "--run-dir", "runs/first")
    second = ("--nodes", "1", *ON_ONE, "--run-dir", "runs/second", "--set", f"model.init={model}")
    third = ("launch/verify.py", "runs/second")
    done, jobs = submit(*first, "--then", *second, "--then", *third)
    assert len(jobs) == 3
    waiting = cluster.job(jobs[1])
    assert waiting["Dependency"].startswith(f"afterok:{jobs[0]}")
    for job in jobs:
        ended(cluster, project, job)
    record = json.loads((project / "runs" / "second" / "config.json").read_text())
    assert record["config"]["model"]["init"] == model and record["world_size"] == 1
    assert [attempt.ranks for attempt in read_attempts(project / "runs" / "first")] == [2]
    assert "is what it says it is" in log(project, jobs[2])
    assert json.loads((project / "runs" / "second" / "jobs.json").read_text())["jobs"][0]["job"] == jobs[1]


def test_what_follows_a_failure_is_taken_out_of_the_queue(cluster, project, submit):
    (project / "runs" / "no").mkdir(parents=True, exist_ok=True)
    second = (*ON_ONE, "--run-dir", "runs/never")
    _, jobs = submit("--max-crashes", "0", "launch/verify.py", "runs/no", "--then", *second)
    ended(cluster, project, jobs[0], "FAILED")
    cluster.until("the end of the second", lambda: jobs[1] not in cluster.queue())
    assert cluster.job(jobs[1])["JobState"] == "CANCELLED"


def test_an_array_has_a_run_for_each_value(cluster, project, submit):
    _, jobs = submit("--each", "seed=1,2", *ON_ONE, "--run-dir", "runs/array")
    assert [job.partition("_")[2] for job in jobs] == ["0", "1"]
    for job in jobs:
        ended(cluster, project, job)
    folders = [project / "runs" / f"array-seed={seed}" for seed in (1, 2)]
    for folder, seed, job in zip(folders, (1, 2), jobs, strict=True):
        assert json.loads((folder / "config.json").read_text())["config"]["seed"] == seed
        assert read_attempts(folder)[0].job == job
    assert model_bytes(folders[0]) != model_bytes(folders[1])


def test_an_array_over_configs_and_a_key_has_a_run_for_each_pair(cluster, project, submit):
    (project / "other.json").write_text(json.dumps({"base": "long.json", "log": {"every": 7}}))
    _, jobs = submit("--each", "config=long.json,other.json", "--each", "seed=1,2", *ON_ONE)
    assert [job.partition("_")[2] for job in jobs] == ["0", "1", "2", "3"]
    for job in jobs:
        ended(cluster, project, job)
    pairs = [(name, seed) for name in ("long", "other") for seed in (1, 2)]
    folders = [project / "runs" / f"{name}-seed={seed}" for name, seed in pairs]
    for folder, (name, seed), job in zip(folders, pairs, jobs, strict=True):
        config = json.loads((folder / "config.json").read_text())["config"]
        assert (config["seed"], config["log"]["every"]) == (seed, 7 if name == "other" else 5)
        assert [(attempt.job, attempt.end.status) for attempt in read_attempts(folder)] == [(job, 0)]
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in folders]
    assert weights[:2] == weights[2:] and weights[0] != weights[1], "a seed decides, and the log does not"


def test_a_task_of_an_array_that_is_preempted_is_queued_again_alone(cluster, project, submit):
    """Each task has a node, and both train the same; one node is wanted by a job of higher priority."""
    for name in ("twin", "other_twin"):
        (project / f"{name}.json").write_text(json.dumps({"base": "long.json"}))
    options = ("--each", "config=twin.json,other_twin.json", "--sbatch", "exclusive", "--partition", "debug")
    _, jobs = submit(*options, "launch/pretrain.py", "--config", "twin.json")
    folders = dict(zip(jobs, (project / "runs" / "twin", project / "runs" / "other_twin"), strict=True))
    for job in jobs:
        wait_for(cluster, project, job, lambda job=job: cluster.ranks(job))
    taken, left = sorted(jobs, key=cluster.nodes, reverse=True)
    assert [cluster.nodes(job) for job in (taken, left)] == [["n2"], ["n1"]]
    with held(cluster, project, taken, folders[taken], 20):
        high = high_job(cluster, nodes=["n2"])
    wait_for(cluster, project, taken, lambda: cluster.job(taken)["JobState"] == "PENDING")
    saved = read_attempts(folders[taken])[0].end.step
    cluster.wait(high, "COMPLETED")
    assert f"from step {saved}" in ended(cluster, project, taken)
    ended(cluster, project, left)
    assert [cluster.job(job)["Restarts"] for job in (taken, left)] == ["1", "0"]
    (attempt,) = read_attempts(folders[left])
    assert (attempt.job, attempt.nodes, attempt.end.status) == (left, ("n1",), 0)
    check_continued(folders[taken], folders[left], but=NAMED)


def test_following_prints_the_log_to_the_end(cluster, project, submit):
    done, (job,) = submit("--follow", *ON_ONE, "--run-dir", "runs/followed")
    assert log(project, job) in done.stdout and f"job {job}: COMPLETED" in done.stderr
    (project / "runs" / "no").mkdir(parents=True, exist_ok=True)
    done, _ = submit("--follow", "--max-crashes", "0", "launch/verify.py", "runs/no", check=False)
    assert done.returncode == 1 and "runs/no" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--partition", "debog", *ON_ONE), ["--partition debog", "did you mean debug?"]),
        (("--gpus-per-node", "8", *ON_ONE), ["--gpus-per-node 8", "partition debug has at most 2 GPUs"]),
        (("--nodes", "3", *ON_ONE), ["--nodes 3", "partition debug has 2 nodes"]),
        (("--nodes", "2", "--mem", "3.5", *ON_ONE), ["--nodes 2", "debug has 1 nodes with what is asked for"]),
        (("--partition", "high", "--time", "2h", *ON_ONE), ["120 minutes", "60 of partition high"]),
        (("--constraint", "fast", *ON_ONE), ["sbatch says", "feature"]),
        ((*ON_ONE, "--run-dir", "long.json/x"), ["run folder long.json/x cannot be written"]),
        ((*ON_ONE, "--set", "optimizer.lr=-1"), ["optimizer.lr"]),
        (("--nodes", "1-2", *ON_ONE, "--set", "batch.micro_size=8"), ["on 2 ranks", "batch.global_size 8"]),
        ((*ON_ONE, "--then", *ON_ONE), ["two jobs would have the run folder runs/long"]),
        ((*ON_ONE, "--then", "launch/pretrain.py", "--config", "none.json"), ["none.json not found"]),
        ((*ON_ONE, "--then", "launch/report.py", "runs/long", "--otput", "x"), ["unrecognized arguments: --otput"]),
        (("--partition", "debug,hihg", *ON_ONE), ["--partition hihg", "did you mean high?"]),
    ],
)
def test_mistakes_are_refused_before_anything_is_queued(cluster, project, submit, arguments, words):
    before = sorted(path.name for path in (project / "runs").iterdir())
    done, jobs = submit(*arguments, check=False)
    assert done.returncode == 1 and jobs == [] and cluster.queue() == []
    (error,) = [line for line in done.stderr.splitlines() if line]
    assert error.startswith("error: ") and not [word for word in words if word not in error], error
    assert sorted(path.name for path in (project / "runs").iterdir()) == before


def test_what_only_the_larger_node_has_is_granted(submit):
    """sinfo would say the least of both nodes of the partition."""
    done, _ = submit("--dry-run", "--mem", "3.5", *ON_ONE)
    assert "#SBATCH --mem=3" in done.stdout


def test_a_job_that_is_submitted_inside_of_another_is_its_own(cluster, project, submit):
    """As from a shell of salloc, or by a sweep that is a job of an array."""
    inside = {"JOB_ID": 999, "ARRAY_JOB_ID": 999, "ARRAY_TASK_ID": 3, "RESTART_COUNT": 2, "MEM_PER_CPU": 1, "NTASKS": 7}
    script = processes.CHECKOUT / "launch" / "submit.py"
    variables = [f"SLURM_{name}={value}" for name, value in inside.items()]
    options = ("--uncommitted", "--time", "30m", "--mem", "1", *ON_ONE, "--run-dir", "runs/inside")
    done = cluster.call("env", *variables, sys.executable, script, *options, cwd=project)
    (job,) = [line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("job ")]
    ended(cluster, project, job)
    (attempt,) = read_attempts(project / "runs" / "inside")
    assert (attempt.job, attempt.restart, attempt.ranks, attempt.end.status) == (job, 0, 1, 0)


def test_a_dry_run_prints_what_would_be_queued(cluster, project, submit):
    before = sorted(path.name for path in (project / "runs").iterdir())
    options = ("--dry-run", "--nodes", "1-2", "--grace", "3m", "--gpus-per-node", "1", "--setup", "export A=1")
    then = ("--then", "--gpus-per-node", "0", "--setup", "export B=2", *ON_ONE, "--run-dir", "runs/b")
    done, _ = submit(*options, *ON_ONE, *then)
    for line in ("--nodes=1-2", "--signal=USR2@180", "--requeue", "--time=30", "--open-mode=append"):
        assert f"#SBATCH {line}" in done.stdout, line
    assert "#SBATCH --dependency=afterok:JOB_1" in done.stdout
    assert cluster.queue() == [] and sorted(path.name for path in (project / "runs").iterdir()) == before
    scripts = done.stdout.split("#!/bin/bash")[1:]
    assert len(scripts) == 2
    assert ["--gpus-per-node=1" in script for script in scripts] == [True, False]
    assert ["export A=1" in script for script in scripts] == [True, False], "who gives one gives all"
    assert ["export B=2" in script for script in scripts] == [False, True]
    (project / "job.sh").write_text("#!/bin/bash" + scripts[0].split("\n# ")[0])
    cluster.call("sbatch", "--test-only", project / "job.sh")

