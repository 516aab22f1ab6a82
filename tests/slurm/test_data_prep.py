"""Data preparation as an array of jobs on two nodes: the bytes of a run on one machine, also after a lost job."""

import hashlib
import json
import re
import subprocess
import sys

import pytest

from tests.dumps import multistream, page
from tests.processes import CHECKOUT

pytestmark = pytest.mark.slurm

OWN = ("--cluster", "slurm", "--uncommitted", "--time", "10", "--mem", "1")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A config over a dump in many parts; its path."""
    pytest.importorskip("mwparserfromhell")
    folder = tmp_path_factory.mktemp("corpus")
    words = "Sentences of the article number {0} say '''this''' and [[that]] about {0}. "
    pages = [page(f"T{number}", words.format(number) * 40, number=number) for number in range(120)]
    (folder / "a.xml.bz2").write_bytes(multistream(pages, 10)[0])
    values = {
        "source": {"kind": "mediawiki", "paths": [str(folder / "a.xml.bz2")]},
        "tokenizer": {"vocab_size": 150},
        "sequence_length": 64,
        "validation_share": 0.1,
        "shard_characters": 3000,
        "record_tokens": 2048,
    }
    (folder / "config.json").write_text(json.dumps(values))
    return folder / "config.json"


def prepare(cluster, config, output, *more, check=True):
    """The command, as a user of the cluster gives it."""
    return cluster.call(sys.executable, "-m", "data_prep", "--config", config, "--output", output, *more, check=check)


def sums(folder):
    """sha256 of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_an_array_on_two_nodes_writes_the_bytes_of_a_local_run(cluster, config, tmp_path):
    prepare(cluster, config, tmp_path / "here", "--workers", "2")
    before = (cluster.folder / "slurmctld.log").read_text()
    done = prepare(cluster, config, tmp_path / "there", "--workers", "4", *OWN)
    assert "prepared in" in done.stdout and "4 jobs at a time (slurm)" in done.stdout
    assert sums(tmp_path / "there") == sums(tmp_path / "here")
    log = (cluster.folder / "slurmctld.log").read_text().removeprefix(before)
    assert {"n1", "n2"} <= set(re.findall(r"(?:NodeList=|in debug on )(n\d)", log))  # of either scheduler


def test_a_job_that_fails_is_named_and_the_next_run_does_the_rest(cluster, config, tmp_path):
    values = json.loads(config.read_text())
    dump = tmp_path / "b.xml.bz2"
    whole = (config.parent / "a.xml.bz2").read_bytes()
    dump.write_bytes(whole[:-40])
    values["source"]["paths"] = [str(dump)]
    (tmp_path / "config.json").write_text(json.dumps(values))
    own = (
        tmp_path / "config.json",
        tmp_path / "out",
        "--workers",
        "2",
        *OWN,
    )
    failed = prepare(cluster, *own, check=False)
    assert failed.returncode == 1 and "b.xml.bz2: lost bytes" in failed.stderr and "run again" in failed.stderr
    assert list((tmp_path / "out" / ".work" / "extract").glob("*.json"))
    jobs = tmp_path / "out" / ".work" / "jobs"
    (code,) = (jobs / "code").iterdir()
    logs = "".join(path.read_text() for path in jobs.glob("*_log.*"))
    assert f'File "{code}/data_prep/extract.py"' in logs and f'File "{CHECKOUT}/data_prep' not in logs
    dump.write_bytes(whole)
    assert "prepared in" in prepare(cluster, *own).stdout


@pytest.fixture(scope="module")
def here(cluster, config, tmp_path_factory):
    """Sums of what a run on one machine writes."""
    output = tmp_path_factory.mktemp("here") / "data"
    prepare(cluster, config, output, "--workers", "2")
    return sums(output)


@pytest.fixture
def start(cluster, config, tmp_path):
    """Begins a preparation in `there`, and waits until the queue holds some of its tasks; the process and those."""
    begun = []

    def begin(*more):
        command = [sys.executable, "-m", "data_prep", "--config", config, "--output", tmp_path / "there", *OWN, *more]
        process = subprocess.Popen(
            list(map(str, command)), env=cluster.environment(), cwd=cluster.folder, stderr=subprocess.PIPE, text=True
        )
        begun.append(process)
        cluster.until("the array", lambda: len(tasks(cluster)) > 1)
        return process, tasks(cluster)

    yield begin
    for process in begun:
        process.kill()
        process.wait()


def tasks(cluster):
    """Numbers of the tasks of arrays that wait or run, such as 17_3."""
    return cluster.call("squeue", "-h", "--array", "-o", "%i").stdout.split()


def test_a_task_that_is_cancelled_ends_the_run_which_then_does_the_rest(cluster, config, here, start, tmp_path):
    process, found = start("--workers", "1")
    lost = max(found, key=lambda task: int(task.split("_")[1]))
    cluster.call("scancel", lost)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1 and "Traceback" not in error
    assert re.search(rf"error: job {lost} is no longer in Slurm's queue .*\(log /.*{lost}_0_log.err\)", error)
    prepare(cluster, config, tmp_path / "there", "--workers", "4", *OWN)
    assert sums(tmp_path / "there") == here


def test_the_jobs_of_a_run_that_was_killed_are_ended_by_the_next(cluster, config, here, start, tmp_path):
    process, found = start("--workers", "1")
    process.kill()
    process.communicate()
    done = prepare(cluster, config, tmp_path / "there", "--workers", "4", *OWN)
    assert re.search(r"note: an earlier run was cut off; \d of its jobs are at work and end now", done.stderr)
    assert not set(found) & set(tasks(cluster))
    assert sums(tmp_path / "there") == here


def test_what_sbatch_refuses_is_said_in_its_words(cluster, config, tmp_path):
    done = prepare(cluster, config, tmp_path / "out", *OWN, "--partition", "debog", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: the jobs were not submitted: sbatch says: invalid partition specified: debog" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_array_is_no_larger_than_slurm_takes(cluster, config, here, tmp_path):
    """Thirty-two slices would be twice what the cluster's MaxArraySize allows."""
    prepare(cluster, config, tmp_path / "there", "--workers", "8", *OWN)
    assert sums(tmp_path / "there") == here
