"""How far answers of a runtime may be from those of torch: bounds that are known from made-up answers."""

import numpy as np
import pytest
from scipy import stats

from ofa.runtimes.compare import IN_FLOATS, Answers, difference, tolerance_in_8_bits


def said(largest=2.0, logits=200, decisions=200):
    """Answers whose logits go from -largest to largest."""
    return Answers(np.linspace(-largest, largest, logits, dtype=np.float32), np.zeros(decisions, dtype=np.int64))


def moved(expected, by, first=None, *, unequal=0):
    """The same with the first logits elsewhere, and other decisions."""
    logits = expected.logits.copy()
    logits[:first] += np.float32(by)
    decisions = expected.decisions.copy()
    decisions[:unequal] = 1
    return Answers(logits, decisions)


def tolerance_of(expected, noise):
    """In 8 bits, of a model whose logits last bits move by so much; without noise, of one in fp32."""
    return tolerance_in_8_bits(difference(moved(expected, noise), expected)) if noise else IN_FLOATS


@pytest.mark.parametrize(
    ("noise", "passes", "fails"),
    [(None, 1.8e-5, 2.2e-5), (1e-6, 1.8e-3, 2.2e-3), (0.01, 0.009, 0.011), (4, 0.038, 0.042)],
)
def test_logits_may_differ_by_so_much_on_average_and_must_be_numbers(noise, passes, fails):
    """In fp32 by 1e-5 of the largest, 2; in 8 bits by the noise, never by more than 0.02 of it, and
    always by 0.001."""
    expected = said()
    tolerance = tolerance_of(expected, noise)
    for by, within in ((0, True), (passes, True), (fails, False), (np.nan, False)):
        assert difference(moved(expected, by), expected).within(tolerance) == within


@pytest.mark.parametrize(("noise", "bound", "far"), [(None, 1e-4, 1), (1, 0.25, 20)], ids=["fp32", "int8"])
def test_in_floats_no_logit_may_be_far_and_in_8_bits_one_in_a_hundred(noise, bound, far):
    """The largest of many differences in 8 bits grows with the rows that are compared: it says nothing of a file."""
    expected = said(logits=2000, decisions=0)
    tolerance = tolerance_of(expected, noise)
    for share, number, within in ((0.9, far, True), (1.1, far - 1, True), (1.1, far, False)):
        found = moved(expected, share * bound * 2.0, number)
        assert difference(found, expected).within(tolerance) == within


def test_8_bits_may_differ_by_their_own_noise_and_in_half_a_percent_of_the_decisions_but_for_chance():
    """4 of 200: more have a chance of 0.4 % if one in 200 differs, more than 3 one of 1.9 %."""
    expected = said()
    tolerance = tolerance_of(expected, 0.01)
    assert tolerance.mean * 2.0 == pytest.approx(0.01, rel=1e-4)
    assert stats.binom.sf(4, 200, 0.005) < 0.01 < stats.binom.sf(3, 200, 0.005)
    for wrong, passes in ((4, True), (5, False)):
        assert difference(moved(expected, 0, unequal=wrong), expected).within(tolerance) == passes


@pytest.mark.parametrize(
    ("decisions", "unequal", "held", "words"),
    [
        (200, 1, True, None),
        (1000, 5, True, None),
        (200, 2, False, "99.5% equal decisions are not shown: 99.00% of 200 are equal"),
        (1000, 6, False, "99.40% of 1000 are equal"),
        (199, 0, False, "199 decisions are too few, at least 200 tell"),
        (0, 0, None, None),
    ],
)
def test_what_passes_by_chance_or_for_want_of_rows_is_told(decisions, unequal, held, words):
    expected = said(decisions=decisions)
    tolerance, apart = tolerance_of(expected, 0.04), difference(moved(expected, 0, unequal=unequal), expected)
    assert apart.within(tolerance) and tolerance.decisions_held(apart) is held
    assert words in tolerance.doubt(apart) if words else tolerance.doubt(apart) is None
    assert IN_FLOATS.decisions_held(apart) is None and IN_FLOATS.doubt(apart) is None
