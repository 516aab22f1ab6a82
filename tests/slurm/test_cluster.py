"""The Slurm that the other tests use does what they take for granted."""

import pytest
import submitit

pytestmark = pytest.mark.slurm


def test_srun_reaches_both_nodes(cluster):
    done = cluster.call("srun", "--nodes=2", "--ntasks-per-node=1", "bash", "-c", "echo $SLURMD_NODENAME")
    assert sorted(done.stdout.split()) == ["n1", "n2"]


def rank():
    """What a task knows of itself."""
    environment = submitit.JobEnvironment()
    return environment.global_rank, environment.num_tasks, environment.hostnames


def test_submitit_returns_the_results_of_both_ranks(cluster, tmp_path, monkeypatch):
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    executor = submitit.SlurmExecutor(folder=tmp_path)
    executor.update_parameters(nodes=2, ntasks_per_node=1, time=5)
    job = executor.submit(rank)
    cluster.wait(job.job_id, "COMPLETED")
    assert job.results() == [(0, 2, ["n1", "n2"]), (1, 2, ["n1", "n2"])]


def test_a_node_that_is_lost_is_noticed_and_comes_back(cluster):
    cluster.kill_node("n2")
    cluster.until("the loss", lambda: cluster.states()["n2"].startswith("DOWN"))
    cluster.start_node("n2")
    cluster.until("the node", lambda: cluster.states()["n2"] == "IDLE")
