"""Data preparation as an array of jobs on two nodes: the bytes of a run on one machine, also after a lost job."""

import hashlib
import json
import re
import sys

import pytest

from tests.dumps import multistream, page

pytestmark = pytest.mark.slurm


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
    done = prepare(
        cluster, config, tmp_path / "there", "--workers", "4", "--cluster", "slurm", "--time", "10", "--mem", "1"
    )
    assert "prepared in" in done.stdout and "4 jobs at a time (slurm)" in done.stdout
    assert sums(tmp_path / "there") == sums(tmp_path / "here")
    log = (cluster.folder / "slurmctld.log").read_text().removeprefix(before)
    assert {"n1", "n2"} <= set(re.findall(r"NodeList=(n\d)", log))


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
        "--cluster",
        "slurm",
        "--time",
        "10",
        "--mem",
        "1",
    )
    failed = prepare(cluster, *own, check=False)
    assert failed.returncode == 1 and "b.xml.bz2: lost bytes" in failed.stderr and "run again" in failed.stderr
    assert list((tmp_path / "out" / ".work" / "extract").glob("*.json"))
    dump.write_bytes(whole)
    assert "prepared in" in prepare(cluster, *own).stdout
