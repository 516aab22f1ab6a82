"""benchmarks/cpu_step.py runs, and says what it measured."""

import json

import pytest

from benchmarks.cpu_step import VARIANTS
from tests.processes import CHECKOUT, run


@pytest.mark.slow
def test_its_figures_are_of_the_four_combinations():
    program = CHECKOUT / "benchmarks" / "cpu_step.py"
    done = run(program, "--quick", "--json", "--rows", "2", "--sequence", "4", cwd=CHECKOUT)
    found = json.loads(done.stdout)
    assert set(found["milliseconds"]) == set(found["peak_gib"]) == set(VARIANTS)
    assert set(found["speedup_of_ours_over"]) == set(VARIANTS) - {"ours"}
    assert all(0 < of["p10"] <= of["median"] <= of["p90"] for of in found["speedup_of_ours_over"].values())
