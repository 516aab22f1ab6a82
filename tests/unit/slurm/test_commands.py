"""Slurm's commands on a machine where no controller answers, or that has none."""

import shutil

import pytest

from ofa.slurm.commands import NoSlurm, ask_first, said
from ofa.slurm.environment import python_path
from ofa.slurm.options import option


@pytest.fixture
def without_controller(tmp_path, monkeypatch):
    """Commands that ask a port at which nobody listens."""
    if shutil.which("sinfo") is None:
        pytest.skip("Slurm's commands are not installed")
    config = tmp_path / "slurm.conf"
    config.write_text("ClusterName=test\nSlurmctldHost=localhost\nSlurmctldPort=9\nMessageTimeout=1\n")
    monkeypatch.setenv("SLURM_CONF", str(config))


def test_who_begins_without_a_controller_is_told_what_to_do(without_controller):
    words = r"^sinfo says: .*Unable to contact slurm controller.*; submit from .*--cluster local .*slurm.cluster=local"
    with pytest.raises(NoSlurm, match=words):
        ask_first("sinfo")


def test_who_begins_where_there_is_none_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoSlurm, match="^there is no sinfo here; submit from a login node .*--cluster local"):
        ask_first("sinfo")


NO_CONFIG = """\
sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host
sbatch: error: fetch_config: DNS SRV lookup failed
sbatch: fatal: Could not establish a configuration source
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            NO_CONFIG,
            "sbatch says: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host; fetch_config: DNS SRV lookup "
            "failed; Could not establish a configuration source",
        ),
        ("sbatch: error: a\nsbatch: error: a\n  sbatch: fatal: b  \n\nc\n", "sbatch says: a; b; c"),
        ("allocation failure: busy\n", "sbatch says: allocation failure: busy"),
        ("\n", "sbatch says: no word"),
    ],
)
def test_lines_of_an_error_stay_apart_and_say_nothing_twice(text, words):
    assert said("sbatch", text) == words


def test_options_have_a_value_or_none():
    assert option("--qos=a=b") == ("qos", "a=b") and option("exclusive") == ("exclusive", True)


def test_a_job_of_a_job_finds_the_same_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", "/a:/b")
    once = python_path(tmp_path)
    assert once == f"{tmp_path}:/a:/b"
    monkeypatch.setenv("PYTHONPATH", once)
    assert python_path(tmp_path) == once
