"""benchmarks/qat.py: it runs, and its status follows the limit."""

import json

import pytest

from benchmarks import qat
from tests.processes import CHECKOUT, run


@pytest.mark.parametrize(("ours", "published", "right"), [(1.2, 1.5, True), (1.6, 1.2, False), (1.2, 1.6, False)])
def test_either_preset_above_the_limit_is_wrong(ours, published, right):
    """PERF-33"""
    assert qat.is_right({"ours": {"median": ours}, "published": {"median": published}}) is right


def test_it_runs(tmp_path):
    done = run(CHECKOUT / "benchmarks" / "qat.py", "--quick", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["ours"]["median"] > 0 and found["seconds"].keys() == {"float", "ours", "published"}
