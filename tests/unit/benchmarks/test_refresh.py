"""benchmarks/refresh.py: both ways to select agree, and its figures are what they say."""

import json
import math

import pytest
import torch

from benchmarks import refresh
from tests.processes import CHECKOUT, run


@pytest.mark.parametrize("kind", refresh.KINDS, ids=lambda kind: kind.name)
def test_sorting_gives_the_masks_that_the_product_gives(kind):
    generator = torch.Generator().manual_seed(0)
    weights = {str(number): torch.randn(64, 64, generator=generator) for number in range(3)}
    ours, sorted_ = refresh.ours(kind, weights), refresh.by_sorting(kind, weights)
    refresh.check_equal(kind, ours, sorted_)
    wrong = {name: ~keep for name, keep in sorted_.items()}
    with pytest.raises(AssertionError, match="differ from sorting"):
        refresh.check_equal(kind, ours, wrong)


def test_the_slope_of_a_power_law_is_its_exponent():
    assert math.isclose(refresh.slope({n: 3e-9 * n**1.25 for n in (1, 2, 4, 96)}), 1.25)


def test_sizes_double_up_to_the_largest():
    assert refresh.counts_of_tensors(100_000_000) == [1, 2, 4, 8, 16, 32, 64, 95]


@pytest.mark.parametrize(
    ("slopes", "shares", "right"),
    [
        ((1.15, 0.9), (0.05, 0.2), True),
        ((1.16, 0.9), (0.05, 0.1), False),
        ((1.0, 1.0), (0.1, 0.201), False),
        ((float("nan"), 1.0), (0.1, 0.1), False),
    ],
)
def test_a_slope_or_a_share_of_the_sort_above_its_limit_is_wrong_in_any_row(slopes, shares, right):
    """PERF-11: the limits."""
    rows = [made_up("4x1", slope, share) for slope, share in zip(slopes, shares, strict=True)]
    assert refresh.is_right({"rows": rows}) is right


@pytest.mark.parametrize("name", refresh.KNOWN_MISSES)
def test_a_known_miss_is_called_known_up_to_what_is_written_and_a_new_one_fails(name):
    """PERF-11: what falls short is said, and does not grow unseen."""
    known = refresh.KNOWN_MISSES[name].share
    assert known > refresh.SORT_LIMIT and name in [kind.name for kind in refresh.KINDS]
    found = [(1.0, 0.2), (1.0, 0.201), (1.0, known), (1.0, known + 0.001), (1.16, known), (1.0, float("nan"))]
    verdicts = [refresh.verdict(made_up(name, *figures)) for figures in found]
    assert verdicts == ["yes", "known", "known", "NO", "NO", "NO"]
    assert refresh.verdict(made_up("another row", 1.0, known)) == "NO"


def made_up(name, slope, share):
    """A row with these figures."""
    return {"name": name, "slope": slope, "share_of_sort": {"median": share}}


def test_a_small_run_prints_json_with_every_kind_and_its_status_follows_the_figures():
    """PERF-11: the command that measures it. At this size its figures may be anything."""
    small = ("--json", "--rounds", "1", "--max-weights", "2100000", "--sort-weights", "1100000")
    done = run(CHECKOUT / "benchmarks" / "refresh.py", *small, cwd=CHECKOUT, check=False)
    found = json.loads(done.stdout)
    assert [row["name"] for row in found["rows"]] == [kind.name for kind in refresh.KINDS]
    assert all(set(row["seconds"]) == {"1048576", "2097152"} for row in found["rows"])
    assert found["largest_slope"] and found["largest_share_of_sort"] and found["hardware"]["threads"] == 1
    assert done.returncode == (0 if refresh.is_right(found) else 1)
    assert [row["holds"] for row in found["rows"]] == [refresh.verdict(row) for row in found["rows"]]
    good, bad, known = (dict(row, seconds={2**20: 1.0}) for row in found["rows"][:3])
    good["slope"], good["share_of_sort"]["median"], bad["slope"] = 1.0, 0.1, 1.5
    known.update(made_up("4x4", 1.0, 0.3), share_of_sort={"median": 0.3, "p10": 0.3, "p90": 0.3})
    lines = refresh.report({**found, "rows": [good, bad, known]}).splitlines()
    assert [line.split()[-1] for line in lines[2:5]] == ["yes", "NO", "known"]
    assert any(line.startswith("4x4 misses 0.2") and refresh.KNOWN_MISSES["4x4"].reason in line for line in lines)
