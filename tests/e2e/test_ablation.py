"""OFA-40: every part of the recipe has a switch, each switch changes the run, and what it is worth is measured and not
assumed: the numbers stand in results/ablation.md, made by `benchmarks/ablation.py` with the same switches."""

import json

import pytest

from tests.commands import command, overrides

pytestmark = pytest.mark.slow

SWITCHES = {
    "the recipe": [],
    "without teacher preparation": ["model.init=null", "teacher=null"],
    "without distillation": ["teacher=null"],
    "without rewinding": ["schedule.rewind=null"],
    "global allocation": ["pruning.allocation=global"],
}


@pytest.fixture(scope="module")
def results(project):
    """result.json of a run for each switch."""
    found = {}
    for name, switches in SWITCHES.items():
        folder = project / "ablation" / name.replace(" ", "-")
        answer = command(
            "pretrain.py", "--config", "sparse.json", "--run-dir", folder, *overrides(*switches), cwd=project
        )
        assert answer.status == 0, answer
        found[name] = json.loads((folder / "result.json").read_text())
    return found


def test_every_switch_changes_the_result(results):
    losses = {name: result["rows"][-1]["validation_loss"] for name, result in results.items()}
    assert len(set(losses.values())) == len(SWITCHES), losses


def test_every_switch_keeps_the_sparsity(results):
    for name, result in results.items():
        own = result["rows"][-1]
        assert own["scope_sparsity"] == pytest.approx(0.9, abs=2e-3), name


def test_every_result_says_what_it_cost(results):
    for result in results.values():
        assert result["device_hours"] > 0 and result["seconds"] > 0
