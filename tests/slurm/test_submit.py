"""A run submitted to two nodes, which is taken back, limited and robbed of its nodes, and ends as if left alone."""

import contextlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ofa.cluster.attempts import read_attempts
from ofa.cluster.verdict import LOST, SAVED
from ofa.data.plan import Plan
from ofa.data.shards import Corpus
from ofa.run_files import saved_step
from ofa.samples import consumed_rows, read_lines
from tests import processes
from tests.e2e.conftest import TINY
from tests.run_files import metrics, model_bytes
from tests.slurm.cluster import LIVE, NODES
from tests.slurm.conftest import LONG, STEPS

pytestmark = pytest.mark.slurm

ON_TWO = ("--nodes", "2", "--partition", "debug", "launch/pretrain.py", "--config", "long.json")

SHORT = ("--set", "schedule.total_steps=20", "--set", "schedule.rewind=null", "--set", "pruning=null")

LOSS_TOLERANCE = 1e-5
"""Relative, between the losses of a step on one rank and on two: sums of floats in another order."""


def log(project, job):
    """What rank 0 said."""
    path = project / "runs" / ".jobs" / f"{job}_0_log.out"
    return path.read_text() if path.exists() else ""


def last_step(folder):
    """Of the last metrics line; -1 if there is none."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else -1


def row(cluster, project, folder):
    """What launch/status.py says of a run."""
    said = cluster.call(sys.executable, processes.CHECKOUT / "launch" / "status.py", folder, "--json", cwd=project)
    assert said.stderr == ""
    (found,) = json.loads(said.stdout)
    return found


def wait_for(cluster, project, job, reached, patience=600):
    """Until `reached()`, while the job is alive."""
    until = time.monotonic() + patience
    while not reached():
        state = cluster.job(job)["JobState"]
        assert state in LIVE, (state, log(project, job))
        assert time.monotonic() < until, (cluster.job(job), log(project, job))
        time.sleep(0.1)


def ended(cluster, project, job, state="COMPLETED"):
    """The job's log, once it has ended in this state."""
    found = cluster.wait(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "DEADLINE")
    assert found["JobState"] == state, (found, log(project, job))
    return log(project, job)


def test_a_run_on_two_nodes_is_the_run_of_two_local_ranks(cluster, project, submit, undisturbed):
    folder = project / "runs" / "two"
    done, (job,) = submit(*ON_TWO, "--run-dir", "runs/two")
    assert "Traceback" not in ended(cluster, project, job)
    assert model_bytes(folder) == model_bytes(undisturbed)
    assert metrics(folder) == metrics(undisturbed)
    (attempt,) = read_attempts(folder)
    assert (attempt.job, attempt.restart, attempt.nodes, attempt.ranks) == (job, 0, ("n1", "n2"), 2)
    assert attempt.end.status == 0 and attempt.end.step == STEPS
    (code,) = (project / "runs" / ".jobs" / "code").iterdir()
    assert attempt.commit == (code / ".commit").read_text().strip(), "it has run the copy"
    assert row(cluster, project, folder)["state"] == "finished"


def check_same(folder, undisturbed, but=()):
    """To the last bit: the model's files, but for some, the curves, and the rows that every update has read."""
    ours, theirs = model_bytes(folder), model_bytes(undisturbed)
    names = (ours.keys() | theirs.keys()) - set(but)
    assert [name for name in sorted(names) if ours.get(name) != theirs.get(name)] == []
    assert metrics(folder) == metrics(undisturbed)
    assert consumed_rows(folder / "samples") == consumed_rows(undisturbed / "samples")


def check_continued(folder, undisturbed, attempts=2, but=()):
    """The attempts of a run of several, none of which did again what another had done; its end is the undisturbed
    one's."""
    found = read_attempts(folder)
    assert len(found) == attempts
    for before, after in zip(found, found[1:], strict=False):
        assert before.end.reason == SAVED and before.end.status == 75
        assert before.end.step == after.step > before.step
        assert after.job == before.job and after.restart > before.restart
    assert found[-1].end.status == 0 and found[-1].end.step == STEPS
    check_same(folder, undisturbed, but)
    return found


def high_job(cluster, seconds=5, nodes=NODES):
    """Submit a job that takes these nodes from whoever has them."""
    place = (f"--nodes={len(nodes)}", f"--nodelist={','.join(nodes)}", "--exclusive")
    script = ("--output=/dev/null", f"--wrap=sleep {seconds}")
    return cluster.call("sbatch", "--partition=high", *place, *script).stdout.split()[-1]


@contextlib.contextmanager
def held(cluster, project, job, folder, step, number=signal.SIGUSR2):
    """The ranks of a run, standing still from some step on until Slurm has asked them to save: what a cluster takes
    seconds for must not come after the end."""
    wait_for(cluster, project, job, lambda: last_step(folder) >= step)
    ranks = cluster.ranks(job)
    assert len(ranks) == len(cluster.nodes(job))
    try:
        for pid in ranks:
            os.kill(pid, signal.SIGSTOP)
        yield
        wait_for(cluster, project, job, lambda: all(asked(pid, number) for pid in ranks))
    finally:
        for pid in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def asked(pid, number):
    """Whether a signal waits for a process that stands still; Slurm may have let it go on to hear of it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    if re.search(r"State:\s*T", status) is None:
        return True
    pending = int(re.search(r"ShdPnd:\s*(\w+)", status)[1], 16)
    return bool(pending >> (number - 1) & 1)


def test_a_run_that_is_preempted_saves_waits_and_ends_as_if_left_alone(cluster, project, submit, undisturbed):
    """By a job of higher priority in the middle of the ramp: no step is done twice, and none is left out."""
    folder = project / "runs" / "preempted"
    _, (job,) = submit(*ON_TWO, "--run-dir", "runs/preempted")
    with held(cluster, project, job, folder, 20):
        assert row(cluster, project, folder)["state"] == "running"
        high = high_job(cluster, seconds=20)
    wait_for(cluster, project, job, lambda: cluster.job(job)["JobState"] == "PENDING")
    seen = row(cluster, project, folder)
    assert (seen["state"], seen["job"], seen["attempts"]) == ("requeued", job, 1) and seen["waits_for"]
    saved = read_attempts(folder)[0].end.step
    assert seen["step"] == seen["saved_step"] == saved
    assert last_step(folder) < saved < 140, "stopped in the ramp, and nothing is newer than what was saved"
    cluster.wait(high, "COMPLETED")
    assert f"from step {saved}" in ended(cluster, project, job)
    first, second = check_continued(folder, undisturbed)
    assert first.job == job and second.restart == 1
    steps = [line["step"] for line in metrics(folder) if "lr" in line]
    assert steps == sorted(set(steps))


def test_a_run_that_is_preempted_by_sigterm_saves_too(cluster, project, submit, undisturbed):
    """As of a Slurm without preempt_send_user_signal, which sends it again at the end of the grace."""
    folder = project / "runs" / "terminated"
    with cluster.without("SlurmctldParameters=preempt_send_user_signal"):
        _, (job,) = submit(*ON_TWO, "--run-dir", "runs/terminated")
        with held(cluster, project, job, folder, 20, signal.SIGTERM):
            high = high_job(cluster)
        wait_for(cluster, project, job, lambda: cluster.job(job)["JobState"] == "PENDING")
        cluster.wait(high, "COMPLETED")
        ended(cluster, project, job)
    check_continued(folder, undisturbed)


def test_a_run_that_slurm_takes_back_without_grace_is_queued_by_slurm_and_ends(cluster, project, submit, undisturbed):
    """It has only the seconds between Slurm's SIGTERM and SIGKILL; what its job says as it ends changes nothing."""
    folder = project / "runs" / "graceless"
    options = ("--nodes", "2", "--partition", "graceless")
    _, (job,) = submit(*options, *ON_TWO[4:], "--run-dir", "runs/graceless")
    wait_for(cluster, project, job, lambda: last_step(folder) >= 20)
    high_job(cluster)
    wait_for(cluster, project, job, lambda: cluster.job(job)["Restarts"] == "1")
    assert "was taken back" in ended(cluster, project, job)
    first, second = read_attempts(folder)
    assert (first.restart, second.restart, second.end.status) == (0, 1, 0)
    assert model_bytes(folder) == model_bytes(undisturbed)


def test_a_run_saves_before_its_limit_and_goes_on(cluster, project, submit, undisturbed):
    """The limit is moved near as soon as the run is on its way; Slurm looks at limits every half minute."""
    folder = project / "runs" / "limited"
    _, (job,) = submit(*ON_TWO, "--run-dir", "runs/limited")
    with held(cluster, project, job, folder, 20):
        minutes = int(cluster.seconds(job) / 60) + 2
        cluster.call("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
    wait_for(cluster, project, job, lambda: cluster.job(job)["JobState"] == "PENDING")
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    ended(cluster, project, job)
    check_continued(folder, undisturbed)


def lose(cluster, project, job, node):
    """Kill a node for as long as it takes Slurm to notice, and until the job waits."""
    cluster.kill_node(node)
    wait_for(cluster, project, job, lambda: cluster.job(job)["JobState"] == "PENDING")
    cluster.until("the loss", lambda: cluster.states()[node].startswith("DOWN"))
    cluster.start_node(node)


@pytest.mark.parametrize("lost", ["n2", "n1"])
def test_a_run_whose_node_is_lost_is_queued_again_and_ends_as_if_left_alone(
    cluster, project, submit, undisturbed, lost
):
    """When the node is back; also if it is the first rank's, who would have noted the end."""
    folder = project / "runs" / f"lost-{lost}"
    _, (job,) = submit(*ON_TWO, "--run-dir", folder, "--set", "checkpoint.every=20")
    wait_for(cluster, project, job, lambda: last_step(folder) >= 25)
    lose(cluster, project, job, lost)
    ended(cluster, project, job)
    cluster.until("the node", lambda: cluster.states()[lost] == "IDLE")
    first, *_, last = read_attempts(folder)
    assert first.nodes == last.nodes == ("n1", "n2")
    assert (first.end is None) == (lost == "n1"), "nobody is left to note it"
    assert last.step >= 20 and last.end.status == 0
    check_same(folder, undisturbed)


def lines_of_batches(folder):
    """What is noted of each global batch: a line of each rank that has read of it, by the batch's number."""
    found = {}
    for path in sorted((folder / "samples").glob("rank-*.jsonl")):
        for line in read_lines(path):
            found.setdefault(line["batch"], []).append(line)
    return found


def rows_of(lines):
    """Row ids of a global batch, whichever rank has read them."""
    return sorted(row for line in lines for rows in line["rows"] for row in rows)


def losses(folder):
    """Of each step that is logged, and of each refresh of the masks."""
    lines = [line for line in metrics(folder) if "loss" in line]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps)) and {*range(0, STEPS, LONG["log"]["every"]), STEPS - 1} <= set(steps)
    return steps, np.array([line["loss"] for line in lines])


def lose_for_good(cluster, project, job, folder, node):
    """Kill a node while the ranks stand still some steps after a checkpoint; what had been read and saved then."""
    wait_for(cluster, project, job, lambda: last_step(folder) >= 20 and 5 <= last_step(folder) % 20 < 12)
    ranks = cluster.ranks(job)
    assert len(ranks) == 2
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    try:
        tried, saved = lines_of_batches(folder), saved_step(folder)
        cluster.kill_node(node)
    finally:
        for pid in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    return tried, saved


def test_a_run_goes_on_with_the_node_that_is_left_over_the_same_samples_to_the_same_losses(
    cluster, project, submit, undisturbed
):
    """OFA-28: a range of nodes allows it at once. What had not been saved is done again, from the same rows, and no
    row is left out or taken twice; with the same global batches the losses are those of two ranks but for the order of
    sums."""
    folder = project / "runs" / "elastic"
    _, (job,) = submit("--nodes", "1-2", *ON_TWO[2:], "--run-dir", folder, "--set", "checkpoint.every=20")
    tried, saved = lose_for_good(cluster, project, job, folder, "n2")
    try:
        said = ended(cluster, project, job)
    finally:
        cluster.start_node("n2")
    cluster.until("the node", lambda: cluster.states()["n2"] == "IDLE")
    first, last = read_attempts(folder)
    assert (first.nodes, last.nodes, first.ranks, last.ranks) == (("n1", "n2"), ("n1",), 2, 1)
    assert (first.end.reason, first.end.step, last.step, last.end.step) == (LOST, saved, saved, STEPS)
    assert f"from step {saved}" in said and "ranks (2 -> 1)" in said
    assert 25 <= max(tried) < saved + 20 + 1, "no more is done again than lies behind the newest checkpoint"

    read = lines_of_batches(folder)
    assert sorted(read) == list(range(STEPS))
    worlds = [[line["world_size"] for line in read[batch]] for batch in range(STEPS)]
    assert worlds == [[2, 2]] * saved + [[1]] * (STEPS - saved)
    assert {len(rows_of(lines)) for lines in read.values()} == {TINY["batch"]["global_size"]}
    whole = [batch for batch, lines in tried.items() if len(lines) == 2]
    assert set(range(saved + 1)) < set(whole), "something is done again"
    assert [rows_of(tried[batch]) for batch in whole] == [rows_of(read[batch]) for batch in whole]
    plan = Plan(Corpus.open(project / "data").split("train"), 42, TINY["data"]["shuffle_window"])
    rows = plan.rows(np.arange(STEPS * TINY["batch"]["global_size"]))[1].tolist()
    assert consumed_rows(folder / "samples") == rows == consumed_rows(undisturbed / "samples")

    (steps, ours), (same_steps, theirs) = losses(folder), losses(undisturbed)
    assert steps == same_steps
    before = np.searchsorted(steps, saved)
    assert (ours[:before] == theirs[:before]).all()
    assert ours == pytest.approx(theirs, rel=LOSS_TOLERANCE)
    assert np.abs(ours[1:] - theirs[:-1]).mean() > 100 * LOSS_TOLERANCE, "of another batch they would not be"


def test_a_run_that_is_cancelled_saves_and_stays_away_until_it_is_submitted_again(
    cluster, project, submit, undisturbed
):
    """Two jobs for one run are refused; the second goes on where the first was."""
    folder = project / "runs" / "cancelled"
    command = (*ON_TWO, "--run-dir", "runs/cancelled")
    _, (job,) = submit(*command)
    wait_for(cluster, project, job, lambda: last_step(folder) >= 20)
    refused, none = submit(*command, check=False)
    assert none == [] and f"runs/cancelled: job {job} is RUNNING for it: scancel {job} first" in refused.stderr
    cluster.call("scancel", job)
    cluster.until("the end", lambda: cluster.queue() == [])
    assert cluster.job(job)["JobState"] == "CANCELLED"
    (attempt,) = read_attempts(folder)
    assert (attempt.end.status, attempt.end.reason) == (75, SAVED) and attempt.end.step > 20
    assert row(cluster, project, folder)["state"] == "stopped and saved"
    _, (second,) = submit(*command)
    assert f"from step {attempt.end.step}" in ended(cluster, project, second)
    check_same(folder, undisturbed)


def test_a_stop_file_ends_the_job_with_75_and_it_is_not_queued_again(cluster, project, submit):
    folder = project / "runs" / "stopped"
    _, (job,) = submit("--nodes", "1", *ON_TWO[2:], "--run-dir", "runs/stopped")
    wait_for(cluster, project, job, lambda: last_step(folder) >= 5)
    (folder / "stop").touch()
    ended(cluster, project, job, "FAILED")
    assert cluster.job(job)["ExitCode"] == "75:0"
    (attempt,) = read_attempts(folder)
    assert (attempt.end.status, attempt.end.reason) == (75, SAVED) and not (folder / "stop").exists()
    assert row(cluster, project, folder)["state"] == "stopped and saved"


def test_a_signal_that_comes_before_it_can_be_heard_costs_nothing(cluster, project, submit):
    """In the first second of a task, whose Python would end by it, and the job with that."""
    _, (job,) = submit("--nodes", "2", *ON_TWO[2:], *SHORT, "--run-dir", "runs/early")
    wait_for(cluster, project, job, lambda: len(cluster.tasks(job)) == 2)
    for pid in cluster.tasks(job):
        os.kill(pid, signal.SIGUSR2)
    ended(cluster, project, job)
    (attempt,) = read_attempts(project / "runs" / "early")
    assert attempt.end.status == 0


def test_each_gpu_has_a_process_and_a_range_gets_the_most_nodes_that_there_are(cluster, project, submit):
    several = ("--nodes", "1-2", "--gpus-per-node", "2", *ON_TWO[2:], "--set", "batch.micro_size=2")
    done, (job,) = submit(*several, *SHORT, "--run-dir", "runs/gpus")
    assert "1 to 2 nodes of 2 GPUs" in done.stdout
    ended(cluster, project, job)
    assert cluster.job(job)["TresPerNode"].endswith("gpu:2")
    (attempt,) = read_attempts(project / "runs" / "gpus")
    assert (attempt.nodes, attempt.ranks, attempt.end.step) == (("n1", "n2"), 4, 20)


def test_of_listed_numbers_of_nodes_the_most_that_slurm_gives_are_used(cluster, project, submit):
    """Two of one to four are there, and the run may have one or four: the other one stays idle."""
    several = ("--nodes", "1,4", "--gpus-per-node", "2", *ON_TWO[2:], "--set", "batch.micro_size=1")
    done, (job,) = submit(*several, *SHORT, "--run-dir", "runs/listed")
    assert "1, 4 nodes of 2 GPUs" in done.stdout
    ended(cluster, project, job)
    assert cluster.job(job)["NumNodes"] == "2"
    (attempt,) = read_attempts(project / "runs" / "listed")
    assert (attempt.nodes, attempt.ranks, attempt.end.step) == (("n1",), 2, 20)
