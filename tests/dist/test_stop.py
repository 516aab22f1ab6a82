"""All ranks stop after the same step, whichever was asked, on real ranks over gloo."""

import json
from pathlib import Path

import pytest

from tests import processes

WORKER = Path(__file__).with_name("stop_worker.py")
ROUNDS = 30


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_every_rank_stops_after_the_same_step_soon_after_one_was_asked(tmp_path, ranks):
    """A rank that stopped earlier than another would leave it waiting for ever in a collective: the worker would not
    end. It takes at most two steps: one to hear of it, one to agree."""
    processes.ranks(WORKER, str(ROUNDS), number=ranks, cwd=tmp_path)
    of_ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(ranks)]
    assert all(of_rank == of_ranks[0] for of_rank in of_ranks)
    waited = [stopped - asked for stopped, asked in of_ranks[0]]
    assert len(waited) == ROUNDS and min(waited) >= 1 and max(waited) <= 4
