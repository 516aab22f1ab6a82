"""The plan of a task's rows: every row once an epoch, rows of like length together, a pure function of the position."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.data import counter
from ofa.data.task_plan import WINDOW, TaskPlan, total_steps


def lengths_of(rows, seed=0):
    """Lengths as texts have them: many short ones, few long ones."""
    return np.random.default_rng(seed).lognormal(3, 0.8, rows).astype(np.int64) + 3


def epoch_of(plan, epoch):
    epochs, row_ids = plan.rows(np.arange(epoch * plan.total_rows, (epoch + 1) * plan.total_rows))
    assert (epochs == epoch).all()
    return row_ids


def padding(lengths, row_ids, size):
    """Share of the places that are padding in batches of `size`."""
    longest = [lengths[row_ids[start : start + size]].max() for start in range(0, len(row_ids), size)]
    return 1 - lengths[row_ids].sum() / (np.array(longest).sum() * size)


@settings(deadline=None)
@given(rows=st.integers(1, 400), size=st.integers(1, 40), seed=st.integers(0, 10**9), epoch=st.integers(0, 10**6))
def test_an_epoch_visits_every_row_once(rows, size, seed, epoch):
    """OFA-28, the fine-tuning half: whatever N, G, seed and epoch are."""
    plan = TaskPlan(lengths_of(rows), size, seed)
    assert sorted(epoch_of(plan, epoch).tolist()) == list(range(rows))


@settings(deadline=None)
@given(
    rows=st.integers(1, 300), size=st.integers(1, 40), positions=st.lists(st.integers(0, 5000), min_size=1, max_size=30)
)
def test_a_position_gives_the_same_row_whatever_else_is_asked(rows, size, positions):
    epochs, row_ids = TaskPlan(lengths_of(rows), size, 3).rows(np.array(positions))
    for position, epoch, row in zip(positions, epochs, row_ids, strict=True):
        alone = TaskPlan(lengths_of(rows), size, 3).rows(np.array([position]))
        assert (int(alone[0][0]), int(alone[1][0])) == (epoch, row)


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(1, 3000), size=st.integers(1, 24), epoch=st.integers(0, 50))
def test_batches_of_a_window_do_not_overlap_in_length(rows, size, epoch):
    """Within a window the pieces are runs of the sorted rows, and they end where global batches end."""
    lengths = lengths_of(rows)
    row_ids = epoch_of(TaskPlan(lengths, size, 1), epoch)
    batches = (np.arange(rows) + epoch * rows) // size
    batches -= batches[0]
    for window in range(batches[-1] // WINDOW + 1):
        inside = range(window * WINDOW, min((window + 1) * WINDOW, batches[-1] + 1))
        found = sorted((lengths[row_ids[batches == batch]] for batch in inside), key=lambda one: (one.min(), one.max()))
        assert all(one.max() <= other.min() for one, other in zip(found, found[1:], strict=False))


def test_padding_is_a_small_part_of_a_random_orders():
    lengths, size = lengths_of(32 * 400), 32
    ours = padding(lengths, epoch_of(TaskPlan(lengths, size, 0), 0), size)
    random = padding(lengths, counter.permutation(counter.key(0, "x"), len(lengths)), size)
    assert ours < 0.2 * random and random > 0.5


def test_lengths_do_not_come_in_order():
    """A batch says little about the next one's length."""
    lengths, size = lengths_of(32 * 400), 32
    means = lengths[epoch_of(TaskPlan(lengths, size, 0), 0)].reshape(-1, size).mean(axis=1)
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.2


def test_epochs_and_seeds_put_other_rows_together():
    lengths = lengths_of(3200)
    batches = {
        frozenset(epoch_of(TaskPlan(lengths, 32, seed), epoch)[start : start + 32].tolist())
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
        for start in range(0, 3200, 32)
    }
    assert len(batches) == 300


def test_the_order_of_this_version_is_kept():
    """A resumed run of a later version must read the same rows; a change here breaks every checkpoint."""
    plan = TaskPlan(np.array([5, 9, 3, 3, 7, 8, 4, 6, 2, 9, 5]), 4, 42)
    assert epoch_of(plan, 1).tolist() == [7, 2, 6, 10, 0, 4, 5, 1, 9, 8, 3]


@pytest.mark.parametrize(
    ("rows", "size", "epochs", "steps"),
    [(3668, 32, 3.0, 344), (32, 32, 1.0, 1), (33, 32, 1.0, 2), (10, 32, 0.1, 1), (30, 3, 0.1, 1), (70, 7, 0.3, 3)],
)
def test_epochs_are_rounded_up_to_whole_steps(rows, size, epochs, steps):
    assert total_steps(rows, size, epochs) == steps
