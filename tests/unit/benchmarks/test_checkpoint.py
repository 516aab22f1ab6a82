"""benchmarks/checkpoint.py: its limits are what they say, and the command runs."""

import json
import subprocess
import sys

import pytest

from benchmarks import checkpoint
from tests.processes import CHECKOUT, environment

GOOD = {
    "seconds_per_gb": 2.0,
    "updates_per_save": 1.0,
    "refresh_share": 0.01,
    "throughput": 0.9,
    "losses": [0.1 * number for number in range(10)],
    "losses_of_the_continued_run": [0.1 * number for number in range(10)],
}


@pytest.mark.parametrize(
    ("change", "right"),
    [
        ({}, True),
        ({"seconds_per_gb": 9.0}, True),
        ({"updates_per_save": 9.0}, True),
        ({"seconds_per_gb": 2.1, "updates_per_save": 1.1}, False),
        ({"refresh_share": 0.011}, False),
        ({"throughput": 0.89}, False),
        ({"throughput": float("nan")}, False),
        ({"losses_of_the_continued_run": GOOD["losses"][:9] + [0.9000000000000001]}, False),
        ({"losses": [], "losses_of_the_continued_run": []}, False),
    ],
)
def test_a_figure_beyond_its_limit_is_wrong(change, right):
    """PERF-29, OFA-32: the limits; of a save's two one is enough."""
    assert checkpoint.is_right({**GOOD, **change}) is right


def test_shares_count_a_refresh_among_the_updates_between_two():
    """OFA-32: with a refresh as long as 10 updates after every 990 of them, 1 % of the time is its."""
    figures = {
        "refresh_per_update_ratios": {"median": 10.0},
        "updates_per_save_ratios": {"median": 3.0},
        "throughput_ratios": {"median": 1.0},
        "seconds": {"save": 0.5},
        "saved_bytes": 250_000_000,
    }
    found = checkpoint.shares(figures, 990)
    assert found == {"seconds_per_gb": 2.0, "updates_per_save": 3.0, "throughput": 0.99, "refresh_share": 0.01}
    assert checkpoint.published_frequency() == 1000


@pytest.mark.slow
def test_a_quick_run_prints_json_and_its_status_follows_the_figures(tmp_path):
    """PERF-29, OFA-32: the command that measures them; the ten losses are equal at any size, of the rest at this size
    anything may be."""
    command = [sys.executable, str(CHECKOUT / "benchmarks" / "checkpoint.py"), "--quick", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert len(found["losses"]) == 10 and found["losses"] == found["losses_of_the_continued_run"]
    assert len(set(found["losses"])) > 5
    assert done.returncode == (0 if checkpoint.is_right(found) else 1)
    assert set(found["seconds"]) == {"update", "dense update", "teacher", "refresh", "save"}
    assert found["saved_bytes"] > 0 and found["versions"]["deepspeed"] and found["hardware"]["threads"] == 1
    lines = checkpoint.report({**found, "throughput": 0.5, "refresh_share": 0.001}).splitlines()
    ends = {line.split("  ")[0]: line.split()[-1] for line in lines if line}
    assert (ends["throughput"], ends["refresh share"], ends["losses"]) == ("NO", "yes", "yes")
    assert list(tmp_path.iterdir()) == []
