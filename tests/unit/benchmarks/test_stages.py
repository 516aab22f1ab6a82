"""benchmarks/stages.py: what counts as right."""

import pytest

from benchmarks.stages import is_right, stages_agree

RIGHT = {
    "zero_stage": "1",
    "precision": "fp32",
    "mode": "hard",
    "mask_hashes": ["a", "a"],
    "zeros": 90,
    "zeros_asked": 90,
    "not_zero_behind_the_masks": 0,
    "came_back_at_refreshes": 0,
}


@pytest.mark.parametrize(
    ("change", "right"),
    [
        ({}, True),
        ({"mask_hashes": ["a", "b"]}, False),
        ({"zeros": 89}, False),
        ({"zeros": 0, "zeros_asked": 0}, False),
        ({"not_zero_behind_the_masks": 1}, False),
        ({"came_back_at_refreshes": 1}, False),
        ({"mode": "retain"}, False),
        ({"mode": "retain", "came_back_at_refreshes": 1}, True),
    ],
)
def test_a_row_is_right_only_if_everything_is(change, right):
    assert is_right({**RIGHT, **change}) is right


def test_stages_must_agree_in_fp32_mode_by_mode():
    other = {**RIGHT, "zero_stage": "2", "mask_hashes": ["b", "b"]}
    assert stages_agree([RIGHT, {**other, "mode": "retain"}, {**other, "precision": "bf16"}])
    assert not stages_agree([RIGHT, other])
