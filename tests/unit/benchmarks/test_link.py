"""benchmarks/link.py: its figures and verdicts are what they say. What it runs is tried in tests/multinode."""

import pytest

from benchmarks import hosts, link

ROUND = {
    "computing": 1.0,
    "backward": 0.6,
    "sending": 0.6,
    "free": 1.2,
    "limited": 1.8,
    "limited_with_overlap": 1.2,
    "sent": 1.05e6,
    "formula": 1e6,
    "megabits": 14.0,
}


def test_shares_are_medians_over_rounds():
    slow = {**ROUND, "limited": 100.0, "limited_with_overlap": 100.0}
    found = link.figures([ROUND, slow, ROUND])
    assert found["share_of_sum_with_overlap"] == pytest.approx(0.75)
    assert found["share_of_sum"] == pytest.approx(1.125)
    assert found["share_of_free_and_sending"] == pytest.approx(1.0)
    assert found["bytes_over_formula"] == pytest.approx(1.05)


@pytest.mark.parametrize(
    ("values", "holds"),
    [
        ({}, ["yes", "yes", "yes"]),
        ({"limited_with_overlap": 1.8}, ["known", "yes", "yes"]),
        ({"limited_with_overlap": 2.0}, ["NO", "NO", "yes"]),
        ({"limited": 2.0}, ["yes", "NO", "yes"]),
        ({"sent": 1.08e6}, ["yes", "yes", "NO"]),
    ],
)
def test_only_a_known_miss_is_excused(values, holds):
    found = link.figures([{**ROUND, **values}])
    assert [said for _, said in link.verdicts(found).values()] == holds
    assert link.is_right(found) == ("NO" not in holds)


TABLES = """Inter-|   Receive                  |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo:   500 5 0 0 0 0 0 0    500 5 0 0 0 0 0 0
  eth0:  1200 10 0 0 0 0 0 0   {bytes} 70 0 0 0 0 0 0
Ip: Forwarding OutRequests
Ip: 1 70
Tcp: RtoAlgorithm InSegs OutSegs RetransSegs InErrs
Tcp: 1 60 68 {again} 0
"""


def test_what_is_sent_again_is_not_counted():
    assert hosts.sent_from(TABLES.format(bytes=90_000, again=0)) == 90_000
    assert hosts.sent_from(TABLES.format(bytes=90_000, again=2)) == 90_000 - 2 * 1514
    for lacks in ("eth0", "Tcp"):
        with pytest.raises(ValueError, match="no eth0, or no counters of TCP"):
            hosts.sent_from(TABLES.replace(lacks, "x"))


def test_the_report_shows_every_figure_that_has_a_limit():
    found = {**link.figures([ROUND]), "in_words": "a CPU", "settings": {"rounds": 1}}
    text = link.report(found)
    assert all(name.replace("_", " ") in text for name in link.verdicts(found))
    assert "1.05 MB a step and host, at 14 Mbit/s" in text
