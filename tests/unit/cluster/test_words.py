"""What is said of a chain of jobs to whoever submitted it."""

from pathlib import Path

import pytest

from ofa.cluster.command import ScriptCall
from ofa.cluster.resources import Resources
from ofa.cluster.submit import Link
from ofa.cluster.verdict import Limits
from ofa.cluster.words import how_to_watch


@pytest.mark.parametrize(
    ("folder", "places"), [("runs/a", ""), (".", "runs . "), ("/other/runs/a", "runs /other/runs/a "), (None, "")]
)
def test_the_command_that_shows_jobs_names_folders_that_it_does_not_look_into_by_itself(folder, places):
    call = ScriptCall("pretrain", None, None if folder is None else Path(folder), ())
    said = how_to_watch([Link((call,), Resources(), Limits(), 1)])
    assert said == f"watch: python launch/status.py {places}--watch"
