"""benchmarks/link.py runs: whether its times are as wanted on a busy machine is not asked here."""

import json
import sys

import pytest

from tests import processes
from tests.multinode.conftest import TIMEOUT

pytestmark = pytest.mark.slow


def test_a_slow_cable_is_measured(pair, tmp_path, monkeypatch):
    """PERF-26"""
    monkeypatch.setattr(processes, "TIMEOUT", TIMEOUT)
    program = processes.CHECKOUT / "benchmarks" / "link.py"
    done = processes.finished([sys.executable, str(program), "--quick", "--json"], cwd=tmp_path, check=False)
    assert done.returncode in (0, 1) and done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert 1 < found["bytes_over_formula"] < 1.15, "of a tiny model more is not weights"
    assert found["median"]["computing"] > 0 and found["median"]["sending"] > 0.8 * found["median"]["backward"]
    assert found["versions"].keys() >= {"torch", "deepspeed"} and found["hardware"]["threads"] == 1
