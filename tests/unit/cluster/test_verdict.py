"""When a job goes on and when it is given up."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.cluster.attempts import Attempt, End
from ofa.cluster.verdict import CRASHED, LOST, SAVED, TOO_LONG, UNABLE, UNSAVED, Ended, Limits, in_a_row, judge, refusal


def attempt(number, step, end=None, status=1, reason=CRASHED):
    """One that began at `step` and ended at `end`; None: it was killed."""
    ended = None if end is None else End("", status, end, reason, None)
    return Attempt(number, "", "17", number - 1, ("n1",), 1, step, None, ended)


NOW = attempt(1, 5)
"""The one that has just ended; its end is not written yet."""


@pytest.mark.parametrize(
    ("ended", "reason", "requeue"),
    [
        (Ended(0), "done", False),
        (Ended(0, asked="SIGUSR2"), "done", False),
        (Ended(75, asked="SIGUSR2"), SAVED, True),
        (Ended(75), SAVED, True),  # the signal came to another rank, or it has a time limit of its own
        (Ended(75, by_file=True), SAVED, False),
        (Ended(-12, asked="SIGUSR2"), UNSAVED, True),  # it was still starting
        (Ended(-15, asked="SIGUSR2"), UNSAVED, True),
        (Ended(130, asked="SIGINT"), UNSAVED, True),  # it said so itself, as it still started
        (Ended(130, asked="SIGTERM"), UNSAVED, True),  # asked twice, it ended at once
        (Ended(130, asked="SIGUSR2", at_limit=True), TOO_LONG, True),
        (Ended(-9, asked="SIGUSR2"), CRASHED, True),  # out of memory while it saved
        (Ended(-11, asked="SIGUSR2"), CRASHED, True),
        (Ended(-12, asked="SIGUSR2", at_limit=True), TOO_LONG, True),
        (Ended(-12, asked="SIGUSR2", at_limit=True, saves=False), TOO_LONG, True),
        (Ended(75, asked="SIGUSR2", at_limit=True), TOO_LONG, True),
        (Ended(75, asked="SIGUSR2", at_limit=True, saves=False), SAVED, True),  # a sweep: its runs got further
        (Ended(1, asked="SIGUSR2", at_limit=True, saves=False), UNSAVED, True),
        (Ended(1, asked="SIGUSR2", at_limit=True), UNABLE, True),
        (Ended(1, asked="SIGTERM"), UNABLE, True),
        (Ended(1, asked="SIGTERM", saves=False), UNSAVED, True),  # a sweep with a run that has failed, and others left
        (Ended(2), CRASHED, False),
        (Ended(1), CRASHED, True),
        (Ended(1, lost=True), LOST, True),
        (Ended(1, asked="SIGUSR2", lost=True), LOST, True),
        (Ended(-9), CRASHED, True),
        (Ended(-9, asked="SIGUSR2", in_time=False), CRASHED, True),
    ],
)
def test_how_it_ended_says_whether_it_goes_on(ended, reason, requeue):
    verdict = judge(ended, [NOW], 5, Limits())
    assert (verdict.reason, verdict.requeue) == (reason, requeue)


def test_a_run_that_crashes_at_one_step_is_given_up_with_its_error():
    attempts, verdicts = [], []
    for number in (1, 2, 3):
        attempts.append(attempt(number, 40))
        verdicts.append(judge(Ended(1, error="error: loss is nan"), attempts, 40, Limits(crashes=2)))
        attempts[-1] = attempt(number, 40, 40)
    assert [verdict.requeue for verdict in verdicts] == [True, True, False]
    assert "loss is nan" in verdicts[-1].error and "3 times in a row at step 40" in verdicts[-1].error


def test_a_run_that_never_can_save_when_it_is_asked_is_given_up_too():
    """As where the disk is full; one that the signal ended while it started is none."""
    full = Ended(1, asked="SIGUSR2", error="error: no space left")
    attempts = [attempt(1, 40, 40, 1, UNABLE), attempt(2, 40, 40, -12, UNSAVED), attempt(3, 40, 40, 1, UNABLE)]
    assert judge(full, [*attempts[:2], attempt(3, 40)], 40, Limits(crashes=2)).requeue
    last = judge(full, [*attempts, attempt(4, 40)], 40, Limits(crashes=2))
    assert (last.reason, last.requeue) == (UNABLE, False)
    assert "no space left" in last.error and "3 times in a row at step 40" in last.error
    assert judge(full, [*attempts, attempt(4, 40)], 50, Limits(crashes=2)).requeue, "it got further before"
    assert judge(Ended(-12, asked="SIGUSR2"), [*attempts, attempt(4, 40)], 40, Limits(crashes=2)).requeue


@pytest.mark.parametrize(
    "ended",
    [
        Ended(-12, asked="SIGUSR2", at_limit=True, saves=False, error="ended by SIGUSR2"),
        Ended(75, asked="SIGUSR2", at_limit=True, error="its last line"),
    ],
)
def test_what_the_time_limit_ends_again_and_again_at_one_step_is_given_up(ended):
    """It would never be done; one that was preempted, or has saved a step meanwhile, may be."""
    spent = [attempt(number, 40, 40, ended.status, TOO_LONG) for number in (1, 2)]
    last = judge(ended, [*spent, attempt(3, 40)], 40, Limits(crashes=2))
    assert (last.reason, last.requeue) == (TOO_LONG, False)
    assert "choose a longer --time (3 times in a row at step 40" in last.error
    assert judge(ended, [spent[0], attempt(2, 40)], 40, Limits(crashes=2)).requeue
    assert judge(ended, [*spent, attempt(3, 40)], 41, Limits(crashes=2)).requeue
    preempted = judge(dataclasses.replace(ended, at_limit=False), [*spent, attempt(3, 40)], 40, Limits(crashes=2))
    assert preempted.requeue and preempted.reason in (SAVED, UNSAVED)


def test_one_that_gets_further_each_time_is_not():
    attempts = [attempt(number, number * 10, number * 10 + 10) for number in range(20)]
    assert judge(Ended(1), [*attempts, attempt(20, 200)], 210, Limits(crashes=0)).requeue
    assert not judge(Ended(1), [*attempts, attempt(20, 200)], 200, Limits(crashes=0)).requeue


def test_attempts_that_were_killed_count_by_what_the_next_one_finds():
    killed = [attempt(1, 0), attempt(2, 0), attempt(3, 30)]
    assert in_a_row(killed, step_now=30) == (0, 1), "the second saved step 30 before it was killed"
    assert in_a_row(killed, step_now=60) == (0, 0)
    assert refusal([*killed[:2], attempt(3, 0)], 0, Limits(kills=2)) == (
        "killed 3 times in a row at step 0, with no step saved between (--max-kills)"
    )
    assert refusal(killed[:2], 0, Limits(kills=2)) is None


def test_what_slurm_has_ended_is_no_sign_of_a_run_that_crashes():
    """Preempted without grace before the first checkpoint; its crashes are counted through that."""
    killed = [attempt(number, 0) for number in range(1, 21)]
    assert refusal(killed, 0, Limits()) is None and refusal([*killed, attempt(21, 0)], 0, Limits()) is not None
    assert judge(Ended(1), [*killed, attempt(21, 0)], 0, Limits(crashes=1)).requeue
    assert not judge(Ended(1), [attempt(0, 0, 0), *killed, attempt(21, 0)], 0, Limits(crashes=1)).requeue
    crashed = refusal([attempt(number, 0, 0) for number in range(3)], 0, Limits(crashes=2))
    assert crashed is not None and crashed.startswith("crashed 3 times")


def test_a_node_that_is_lost_under_another_rank_counts_with_slurms_kills():
    lost = [attempt(1, 0, 0, 1, LOST), attempt(2, 0), attempt(3, 0, 0, 1, LOST)]
    assert in_a_row(lost, step_now=0) == (0, 3)
    now = [*lost, attempt(4, 0)]
    assert judge(Ended(1, lost=True, error="x"), now, 0, Limits(crashes=0, kills=4)).requeue
    last = judge(Ended(1, lost=True, error="x"), now, 0, Limits(crashes=0, kills=3))
    assert not last.requeue and last.error == "x (4 times in a row at step 0, with no step saved between (--max-kills))"
    assert judge(Ended(1, lost=True, error="x"), now, 5, Limits(kills=3)).requeue


def test_stops_are_no_crashes_and_do_not_hide_them():
    stopped = attempt(2, 0, 0, 75, SAVED)
    assert in_a_row([attempt(1, 0, 0), stopped, attempt(3, 0, 0)], step_now=0) == (2, 0)
    assert in_a_row([stopped] * 9, step_now=0) == (0, 0)


def test_no_job_is_queued_for_ever():
    attempts = [attempt(number, number, number + 1, 75, SAVED) for number in range(3)]
    assert judge(Ended(75), attempts, 3, Limits(requeues=3)).requeue
    last = judge(Ended(75), attempts, 3, Limits(requeues=2))
    assert not last.requeue and "it was 2 times (--max-requeues)" in last.error


def test_what_slurm_queues_again_by_itself_is_counted_too():
    """Preemption without grace, of a run that gets further each time."""
    killed = [attempt(number, number * 10) for number in range(3)]
    assert refusal(killed, 30, Limits(requeues=3)) is None
    assert "queued again 3 times, more than 2 (--max-requeues)" in refusal(killed, 30, Limits(requeues=2))


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 3))
def test_no_more_crashes_than_the_limit_follow_each_other_without_a_step(progress, limit):
    """Whatever the order, the job is given up at the crash that is one too many, and at no other."""
    attempts, step, barren = [], 0, 0
    for number, gets_further in enumerate(progress, 1):
        attempts.append(attempt(number, step))
        before, step = step, step + gets_further
        barren = 0 if gets_further else barren + 1
        assert judge(Ended(1, error="x"), attempts, step, Limits(crashes=limit)).requeue == (barren <= limit)
        if barren > limit:
            return
        attempts[-1] = attempt(number, before, step)
