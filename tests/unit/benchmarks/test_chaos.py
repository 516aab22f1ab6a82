"""The chaos campaign: what is drawn, what counts as damage, and one small campaign on real processes."""

import json
import shutil
import sys
from collections import Counter
from random import Random

import numpy as np
import pytest
import torch

from benchmarks import chaos, chaos_checks, chaos_injuries
from benchmarks.chaos_checks import Difference, folder_problems, samples_once, step_in_force
from benchmarks.chaos_lanes import GLOBAL_SIZE, LANES, ROWS, Start, Times, draw_start
from benchmarks.chaos_ranks import hidden
from benchmarks.chaos_run import Attempt, attempt_problems
from ofa.checkpoint import Checkpoints
from ofa.config import BatchConfig, CheckpointConfig
from ofa.data.plan import Plan, rank_positions
from ofa.data.shards import Corpus
from ofa.run_folder import RunFolder
from tests.corpora import write_corpus

TIMES = Times(total=48, ramp_end=24, refreshes=tuple(range(0, 37, 4)))
SAME = Difference(same_bytes=True, same_counts=True, same_places=1.0, loss=0.0)


def injuries(start, ranks, number=500):
    """Drawn for runs that start at one step."""
    return [chaos_injuries.draw_injury(Random(f"{start} {n}"), TIMES, start, ranks) for n in range(number)]


# ---- what is drawn ----------------------------------------------------------------------------------------------


def test_a_seed_draws_the_same_injuries_again():
    assert injuries(9, 2) == injuries(9, 2)
    assert len(set(injuries(9, 2))) > 400


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("start", [0, 9, 30, 43, 46, 47])
def test_injuries_come_soon_after_the_start_and_can_be_done(start, ranks):
    for injury in injuries(start, ranks):
        assert 0 <= injury.rank < ranks and 0 <= injury.share < 1
        assert (injury.how != chaos_injuries.KILL_ONE) or ranks > 1
        assert min(start + 1, TIMES.total - 1) <= injury.step <= min(start + chaos_injuries.REACH, TIMES.total - 1)
        if injury.when == chaos_injuries.REFRESH:
            assert injury.step in TIMES.refreshes and injury.step > start
        if not injury.kills:
            assert injury.when in (chaos_injuries.STEP, chaos_injuries.START_UP)
            assert injury.step <= TIMES.total - chaos_injuries.ROOM


def test_every_injury_is_drawn_at_every_moment_that_it_can_have():
    drawn = Counter((injury.how, injury.when) for injury in injuries(9, 2, 2000))
    assert {how for how, _ in drawn} == set(chaos_injuries.HOW)
    for how in (chaos_injuries.KILL_ALL, chaos_injuries.KILL_ONE):
        assert {when for one, when in drawn if one == how} == set(chaos_injuries.WHEN)


def test_a_run_with_nothing_left_but_its_end_is_hurt_there_or_let_go():
    drawn = injuries(48, 2)
    assert 200 < drawn.count(None) < 300
    assert {injury.when for injury in drawn if injury} == {chaos_injuries.START_UP, chaos_injuries.EXPORT}


def test_a_lane_draws_from_its_own_worlds_and_stages():
    drawn = {name: {draw_start(lane, Random(n)) for n in range(200)} for name, lane in LANES.items()}
    assert drawn["one"] == {Start(1, 1)} and drawn["two"] == {Start(2, 1)}
    assert drawn["any"] == {Start(ranks, stage) for ranks in (1, 2, 4) for stage in (1, 2, 3)}


def test_kills_are_divided_among_lanes():
    assert chaos.shares(50, ["one", "two", "any"]) == {"one": 17, "two": 17, "any": 16}
    assert chaos.shares(1, ["one", "two"]) == {"one": 1, "two": 0}


# ---- what counts as damage --------------------------------------------------------------------------------------


class Files:
    """What an engine writes, without an engine."""

    layout = {"world_size": 1, "zero_stage": 1}

    def save(self, folder, tag, client_state):
        """One file."""
        (folder / tag).mkdir()
        (folder / tag / "weights.pt").write_bytes(b"weights")


@pytest.fixture
def folder(tmp_path):
    """A run folder with two checkpoints and metrics."""
    run = RunFolder(tmp_path)
    checkpoints = Checkpoints(run.checkpoints, CheckpointConfig())
    for step in (3, 6):
        checkpoints.save(Files(), step, {})
    run.metrics.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(7)))
    return run


def test_a_whole_folder_has_no_problems_also_with_what_a_kill_leaves_under_hidden_names(folder):
    (folder.checkpoints / ".writing-step-00000009").mkdir()
    (folder.path / ".writing-model").mkdir()
    with folder.metrics.open("a") as file:
        file.write('{"step": 7, "lo')
    assert folder_problems(folder) == []
    assert step_in_force(folder) == 6
    assert step_in_force(RunFolder(folder.path / "nothing")) == 0


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (lambda run: (run.checkpoints / "step-00000003" / "weights.pt").write_bytes(b"weight"), "step-00000003: "),
        (lambda run: (run.checkpoints / "step-00000009").mkdir(), "step-00000009: "),
        (lambda run: shutil.rmtree(run.checkpoints / "step-00000006"), "checkpoints: "),
        (lambda run: run.metrics.write_text('{"step": 1\n{"step": 2}\n'), "metrics.jsonl: "),
        (lambda run: run.result.write_text('{"rows": '), "result.json: "),
        (lambda run: run.config.write_text(""), "config.json: "),
        (lambda run: run.model.mkdir(), "model: "),
    ],
)
def test_whatever_is_half_written_under_a_final_name_is_found(folder, damage, where):
    damage(folder)
    assert [problem.startswith(where) for problem in folder_problems(folder)] == [True], folder_problems(folder)


def test_what_is_written_now_is_told_from_what_an_earlier_kill_left(folder):
    leftover = folder.checkpoints / ".writing-step-00000009"
    leftover.mkdir()
    before = hidden(folder.checkpoints, "step-*")
    assert len(before) == 1 and hidden(folder.checkpoints, "step-*") == before
    leftover.rmdir()
    assert not hidden(folder.checkpoints, "step-*")
    leftover.mkdir()
    assert hidden(folder.checkpoints, "step-*") - before


def attempt(how=chaos_injuries.KILL_ALL, **changed):
    """One that was hurt at step 7 and had come from checkpoint 6."""
    injury = chaos_injuries.Injury(how, chaos_injuries.STEP, 7, 0, 0.5) if how else None
    values = {"injured": how is not None, "began": 6, "seen": 7, "reached": 8, "statuses": [-9, -9], "in_force": 6}
    values |= {"reached": 48} if changed.get("in_force") == 48 else {}
    return Attempt(Start(2, 1), 6, injury, **{**values, **changed})


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (attempt(), None),
        (attempt(began=None), None),
        (attempt(began=3), "began at step 3, behind checkpoint 6"),
        (attempt(began=0), "began at step 0, behind checkpoint 6"),
        (attempt(in_force=3), "checkpoint 6 is no longer in force"),
        (attempt(reached=4), "the metrics end at step 4, before checkpoint 6"),
        (attempt(chaos_injuries.KILL_ONE, statuses=[1, -9]), None),
        (attempt(chaos_injuries.SIGTERM, statuses=[75, 75], in_force=9), None),
        (attempt(chaos_injuries.SIGTERM, statuses=[75, 75], in_force=7), "saved nothing newer than 7"),
        (attempt(chaos_injuries.SIGTERM, statuses=[75, 1], in_force=9), "asked to stop and ended with statuses"),
        (attempt(chaos_injuries.STOP_FILE, statuses=[0, 0], in_force=48), None),
        (attempt(chaos_injuries.SIGUSR2, statuses=[0, -12], seen=47, in_force=48), None),
        (attempt(None, statuses=[0, 0], in_force=48), None),
        (attempt(None, statuses=[1, 1]), "ended by itself with statuses [1, 1]: error: no"),
        (attempt(injured=False, statuses=[1, 1]), "ended by itself with statuses [1, 1]: error: no"),
    ],
)
def test_an_attempt_that_went_back_or_did_not_do_as_it_was_told_has_a_problem(found, wrong):
    problems = attempt_problems(found, TIMES, "step 6\nerror: no\n")
    assert len(problems) == (wrong is not None) and (wrong is None or wrong in problems[0]), problems


def test_masks_are_compared_place_by_place():
    expected = {"a": torch.tensor([[True, False], [False, True]]), "b": torch.ones(4, dtype=torch.bool)}
    moved = {**expected, "a": torch.tensor([[False, True], [False, True]])}
    assert chaos_checks.equal_places(expected, expected) == 1.0
    assert chaos_checks.equal_places(moved, expected) == 0.75
    assert chaos_checks.counts(moved) == chaos_checks.counts(expected) == {"a": 2, "b": 4}
    assert chaos_checks.equal_places({"a": expected["a"]}, expected) == 0.0
    assert chaos_checks.equal_places({**expected, "a": torch.ones(4, dtype=torch.bool)}, expected) == 0.0


def test_losses_are_compared_line_by_line_and_a_missing_line_is_no_small_difference():
    lines = [{"step": 0, "validation_loss": 5.0}, {"step": 0, "loss": 4.0}, {"step": 1, "loss": 2.0}]
    other = [*lines[:2], {"step": 1, "loss": 2.5}]
    assert chaos_checks.loss_difference(lines, lines) == 0.0
    assert chaos_checks.loss_difference(other, lines) == 0.25
    for wrong in (lines[:2], [*lines, lines[-1]], [*lines[:2], {"step": 2, "loss": 2.0}], []):
        assert chaos_checks.loss_difference(wrong, lines) == float("inf")
    assert chaos_checks.loss_difference([], []) == float("inf")


@pytest.mark.parametrize(
    ("change", "exact", "nearly"),
    [
        ({}, True, True),
        ({"same_bytes": False, "same_places": 0.999, "loss": 1e-5}, False, True),
        ({"same_bytes": False, "same_places": 0.9989}, False, False),
        ({"same_bytes": False, "same_counts": False}, False, False),
        ({"same_bytes": False, "loss": 1.1e-5}, False, False),
        ({"same_bytes": False, "loss": float("nan")}, False, False),
    ],
)
def test_exact_lanes_must_end_with_the_same_bytes_and_others_nearly_with_the_same_masks(change, exact, nearly):
    found = Difference(**{**vars(SAME), **change})
    assert (found.is_right(exact=True), found.is_right(exact=False)) == (exact, nearly)


# ---- every row once per epoch -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The data plan of the campaign's corpus."""
    folder = tmp_path_factory.mktemp("corpus") / "data"
    write_corpus(folder, rows=ROWS)
    return Plan(Corpus.open(folder).split("train"), seed=42, window=2)


@pytest.fixture
def lines(plan):
    """What ranks read in 48 steps of the real plan, in a run that changes its world size on the way."""
    batch, found = BatchConfig(global_size=GLOBAL_SIZE, micro_size=2), []
    for step in range(48):
        world = (1, 4, 2)[step // 16]
        for rank in range(world):
            _, rows = plan.rows(rank_positions(step, batch=batch, rank=rank, world_size=world).ravel())
            micro = np.split(rows, GLOBAL_SIZE // 2 // world)
            line = {"step": step, "batch": step, "rank": rank, "world_size": world}
            found.append({**line, "rows": [ids.tolist() for ids in micro]})
    return found


def read_once(lines):
    """As the campaign asks it."""
    return samples_once(lines, rows=ROWS, global_size=GLOBAL_SIZE, steps=48)


def test_rows_of_the_plan_are_read_once_per_epoch_on_any_number_of_ranks(lines):
    assert read_once(lines)
    assert read_once(reversed(lines))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: lines.pop(),
        lambda lines: lines.pop(20),
        lambda lines: lines.append(lines[20]),
        lambda lines: lines.clear(),
        lambda lines: lines[20].update(rows=lines[21]["rows"]),
        lambda lines: lines[20]["rows"][0].pop(),
        lambda lines: lines[20]["rows"][0].__setitem__(0, ROWS),
        lambda lines: lines[20].update(rank=3),
        lambda lines: lines[3].update(step=2),
        lambda lines: lines[3].update(rows=lines[12]["rows"]),  # a batch of the same epoch read again
    ],
)
def test_a_row_that_is_read_twice_or_never_is_found(lines, spoil):
    spoil(lines)
    assert not read_once(lines)


# ---- the campaign -----------------------------------------------------------------------------------------------


def campaign_of(difference=SAME, *attempts, once=None):
    """A run of lane `one` that ended so."""
    return chaos.ChaosRun(LANES["one"], [*attempts, attempt(None, statuses=[0], in_force=48)], difference, once)


@pytest.mark.parametrize(
    ("run", "lost", "right"),
    [
        (campaign_of(SAME, attempt()), 0, True),
        (campaign_of(SAME, attempt(), once=True), 0, True),
        (campaign_of(SAME, attempt(), once=False), 0, False),
        (campaign_of(SAME, attempt(hung=True)), 0, False),
        (campaign_of(None, attempt()), 1, False),
        (campaign_of(SAME, attempt(problems=["gone"])), 1, False),
        (campaign_of(Difference(False, True, 1.0, 0.0), attempt()), 1, False),
    ],
)
def test_whatever_is_lost_hung_or_unequal_fails_the_campaign(run, lost, right):
    found = chaos.summary([campaign_of(), run], seed=1, seconds=2.0)
    assert found["lost"] == lost and found["kills"] == 1
    assert found["injuries"]["by_kind"] == {chaos_injuries.KILL_ALL: 1}
    assert chaos.is_right(found) is right


def campaign(monkeypatch, capsys, folder, *arguments):
    """The whole of it in this process; only the runs are processes of their own. Returns status and JSON."""
    monkeypatch.setattr(sys, "argv", ["chaos.py", "--folder", str(folder), "--json", *arguments])
    status = chaos.main()
    printed = capsys.readouterr()
    print(printed.err)  # for whom a test fails
    return status, json.loads(printed.out)


@pytest.mark.chaos
def test_a_run_hurt_in_a_save_in_a_step_and_in_the_export_ends_with_the_same_bytes(monkeypatch, capsys, tmp_path):
    """OFA-29: SIGKILL inside a save, SIGTERM on the ramp, SIGKILL inside the export, each followed by a start that
    continues: seed 445 draws just these, and others only where a moment is missed on a busy machine."""
    status, found = campaign(monkeypatch, capsys, tmp_path, "--kills", "3", "--seed", "445", "--lanes", "one")
    assert status == 0 and found["lost"] == found["hung"] == 0, found
    assert found["kills"] == sum(found["injuries"]["by_place"].values()) == 3
    assert found["lanes"]["one"]["starts"] == found["lanes"]["one"]["runs"] + 3
    assert found["bitwise_equal"] is True and found["masks_equal_places"] == 1.0 and found["loss_difference"] == 0.0


@pytest.mark.chaos
def test_a_campaign_over_one_and_two_ranks_loses_nothing(monkeypatch, capsys, tmp_path):
    """OFA-29: whatever is drawn."""
    status, found = campaign(monkeypatch, capsys, tmp_path, "--kills", "12", "--seed", "1", "--lanes", "one", "two")
    assert status == 0, found
    assert found["kills"] == 12 and found["bitwise_equal"] is True
