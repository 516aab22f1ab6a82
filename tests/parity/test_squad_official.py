"""Our scores of answers against what the two official SQuAD scripts say of the same ones (`squad_official.json`, made
by `make_squad_official.py`), also where odds are equal; the rules that other tests take as oracle are held to it."""

import json
from pathlib import Path

import pytest

from ofa.downstream.squad import score_v1, score_v2
from tests.squad_rules import oracle

OFFICIAL = json.loads(Path(__file__).with_name("squad_official.json").read_text())
CLOSE = {"abs": 1e-9, "rel": 0}


@pytest.mark.parametrize("case", OFFICIAL["v1"])
def test_v1_scores_are_the_official_ones(case):
    golds, predictions, official = case["golds"], case["predictions"], case["official"]
    assert 0 < official["exact_match"] < 100 and official["exact_match"] != official["f1"]
    assert score_v1(golds, predictions) == pytest.approx(official, **CLOSE)
    assert oracle(golds, predictions, v2=False) == pytest.approx(tuple(official.values()), **CLOSE)


@pytest.mark.parametrize("case", OFFICIAL["v2"])
def test_v2_scores_are_the_official_ones_with_threshold_and_search(case):
    golds, predictions, official = case["golds"], case["predictions"], case["official"]
    found = score_v2(golds, predictions, null_odds=case["null_odds"], threshold=case["threshold"])
    assert found == pytest.approx(official, **CLOSE)
    withheld = {key: "" if odds > case["threshold"] else predictions[key] for key, odds in case["null_odds"].items()}
    assert "" in withheld.values() and withheld != predictions


def test_the_cases_try_what_the_versions_disagree_about():
    """Otherwise the two tests above would say little."""
    v1_as_v2 = [score_v2(case["golds"], case["predictions"]) for case in OFFICIAL["v1"]]
    assert sum(found["f1"] != case["official"]["f1"] for found, case in zip(v1_as_v2, OFFICIAL["v1"], strict=True)) > 0
    odds = [list(case["null_odds"].values()) for case in OFFICIAL["v2"]]
    assert all(len(set(one)) < len(one) for one in odds)
