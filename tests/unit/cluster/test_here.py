"""Jobs of this machine, without Slurm."""

import pytest

from ofa.cluster.command import ScriptCall
from ofa.cluster.errors import SubmitError
from ofa.cluster.here import run_here
from ofa.cluster.resources import Resources
from ofa.cluster.submit import Link
from ofa.cluster.verdict import Limits


def link(*arguments):
    """A job that looks at a run."""
    return Link((ScriptCall("verify", None, None, arguments),), Resources(), Limits(), 1)


def test_a_job_that_is_followed_to_its_end_is_said_to_have_ended_as_it_did(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SubmitError, match="verify failed"):
        run_here([link("--help"), link("nowhere")], "local", tmp_path / "jobs", watch=True)
    said = [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines() if line.startswith("job ")]
    assert [state for state in said if state != "RUNNING"] == ["COMPLETED", "FAILED"]
