"""The entry script before it trains: plans, usage, and inputs that are missing."""

import json

import pytest

from tests import processes


def test_the_plan_of_the_published_recipe_has_every_step(tmp_path):
    """OFA-1, OFA-11, OFA-13: through the command, from any directory, without model or data."""
    text = processes.script("pretrain.py", "--config", "ofa_90.json", "--plan", cwd=tmp_path, cold=True).stdout
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["step"] for line in lines] == list(range(100_001))
    assert lines[0] == {"step": 0, "lr": 0.0, "sparsity": 0.0, "refresh": True}
    assert lines[30_000]["sparsity"] == pytest.approx(0.8424) and lines[30_001]["refresh"] is False
    assert lines[49_000]["lr"] == pytest.approx(5e-5 * 1.0204082, rel=1e-6)
    assert lines[75_000]["lr"] == pytest.approx(5e-5 * 0.5102041, rel=1e-6)
    assert [line["step"] for line in lines if line["refresh"]] == list(range(0, 80_001, 1000))
    assert list(tmp_path.iterdir()) == []


def test_plan_every_thins_the_plan(tmp_path):
    arguments = ("--config", "tiny/ofa_90.json", "--plan", "--plan-every", "250", "--local_rank=0")
    text = processes.script("pretrain.py", *arguments, cwd=tmp_path, cold=True).stdout
    assert [json.loads(line)["step"] for line in text.splitlines()] == [0, 250, 500, 750, 1000]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--config", "ofa_91.json"], 1, "did you mean ofa_90.json?"),
        (["--config", "ofa_90.json", "--set", "prunning.sparsity=0.5"], 1, "did you mean pruning?"),
        (["--config", "ofa_90.json", "--plan", "--plan-every", "0"], 2, "--plan-every: expected a whole number"),
        (["--config", "ofa_90.json", "--summary"], 2, "belong to --plan"),
        (["--config", "ofa_90.json", "--plan", "--summary", "--ranks", "0"], 2, "--ranks: expected a whole number"),
        (["--config", "tiny/docstrings.json"], 1, "prepares data: use it with python -m data_prep"),
        (["--config", "tiny/ofa_90.json", "--resume", "nowhere"], 1, "--resume nowhere: expected auto, never"),
        ([], 2, "--config"),
        (["--config", "ofa_90.json"], 1, "make it with: python -m data_prep --config data/wikipedia_20231101.json"),
        (["--config", "tiny/ofa_90.json", "--set", "engine.deepspeed.bf16={}"], 1, "engine.precision"),
    ],
)
def test_what_is_wrong_or_missing_is_said_in_one_line_and_leaves_no_trace(tmp_path, arguments, status, words):
    done = processes.script("pretrain.py", *arguments, cwd=tmp_path, check=False, cold=True)
    assert done.returncode == status
    assert words in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
