"""Checkpoints are complete or absent, and what is wrong with one is said."""

import json

import pytest

from ofa.checkpoint import INDEX, CheckpointError, Checkpoints, Start, check, load
from ofa.config import CheckpointConfig


class Files:
    """What an engine writes, without an engine."""

    layout = {"world_size": 1, "zero_stage": 1}

    def save(self, folder, tag, client_state):
        """One file."""
        (folder / tag).mkdir()
        (folder / tag / "weights.pt").write_bytes(b"weights of " + str(client_state["step"]).encode())

    def load(self, folder, tag):
        """Its content."""
        content = (folder / tag / "weights.pt").read_bytes()
        return {"step": int(content.split()[2]), "content": content}


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 1 to 5, two of them kept."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", CheckpointConfig(keep_last=2, keep_every=2))
    for step in range(1, 6):
        checkpoints.save(Files(), step, {"step": step})
    return checkpoints


def names(checkpoints):
    """Complete folders."""
    return sorted(path.name for path in checkpoints.folder.glob("step-*"))


def test_the_newest_and_the_multiples_are_kept(saved):
    assert names(saved) == ["step-00000002", "step-00000004", "step-00000005"]
    assert saved.latest() == saved.folder / "step-00000005"
    assert load(Files(), Start(saved.latest())) == (5, {"step": 5, "content": b"weights of 5"})
    assert not [path for path in saved.folder.iterdir() if path.name.startswith(".")]


def test_a_pinned_step_stays_while_its_neighbours_go(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", CheckpointConfig(keep_last=1))
    for step in range(6):
        checkpoints.save(Files(), step, {"step": step}, needed={3})
    assert names(checkpoints) == ["step-00000003", "step-00000005"]
    checkpoints.save(Files(), 6, {"step": 6})
    assert names(checkpoints) == ["step-00000006"]


def test_a_checkpoint_taken_over_from_another_run_is_whole_and_the_other_stays(saved, tmp_path):
    own = Checkpoints(tmp_path / "branch" / "checkpoints", CheckpointConfig())
    source = saved.at(4)
    (own.folder / ".writing-step-00000004").mkdir(parents=True)
    (own.folder / ".writing-step-00000004" / "half.pt").write_bytes(b"half")
    own.take_over(source)
    assert names(own) == ["step-00000004"] and own.latest() == own.at(4)
    assert load(Files(), Start(own.at(4))) == load(Files(), Start(source))
    assert check(own.at(4)) == check(source)
    assert sorted(p.name for p in own.at(4).iterdir()) == sorted(p.name for p in source.iterdir())


def test_a_checkpoint_that_cannot_be_copied_leaves_nothing_behind(saved, tmp_path):
    own = Checkpoints(tmp_path / "branch" / "checkpoints", CheckpointConfig())
    (saved.at(4) / "gone.pt").symlink_to(tmp_path / "gone.pt")
    with pytest.raises(OSError, match="gone.pt"):
        own.take_over(saved.at(4))
    assert not list(own.folder.iterdir())


def test_a_lost_pointer_is_no_fresh_start(saved):
    (saved.folder / "latest").unlink()
    assert saved.latest() == saved.folder / "step-00000005"


def test_a_pointer_to_nothing_leads_to_the_one_before_with_a_warning(saved, caplog):
    (saved.folder / "latest").write_text("step-00000009\n")
    assert saved.latest() == saved.at(5)
    assert "step-00000009 is no checkpoint" in caplog.text and "Going back to the checkpoint before" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\n", b"\0\0", b"\xff\xfe", b"a step-00000002", b"nonsense"])
def test_a_pointer_that_says_nothing_is_a_lost_one(saved, caplog, content):
    (saved.folder / "latest").write_bytes(content)
    assert saved.latest() == saved.at(5)
    assert "latest is damaged: it names no checkpoint" in caplog.text


def test_what_was_passed_over_loses_its_name_and_does_not_push_out_an_intact_one(tmp_path):
    """Also before the step that is saved next."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", CheckpointConfig(keep_last=2))
    for step in (5, 7):
        checkpoints.save(Files(), step, {"step": step})
    (checkpoints.at(7) / "weights.pt").write_bytes(b"")
    checkpoints.set_aside(checkpoints.latest())
    assert names(checkpoints) == ["step-00000005"] and (checkpoints.folder / ".damaged-step-00000007").is_dir()
    assert (checkpoints.folder / "latest").read_text() == "step-00000005\n"
    checkpoints.save(Files(), 10, {"step": 10})
    assert names(checkpoints) == ["step-00000005", "step-00000010"]
    assert not list(checkpoints.folder.glob(".*"))


def test_nothing_intact_is_an_error_that_counts_what_was_looked_at(saved):
    for path in saved.folder.glob("step-*"):
        (path / "weights.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no intact checkpoint, 3 looked at, the last: .*step-00000002.*another"):
        saved.latest()


def test_an_older_one_that_was_chosen_is_not_passed_over_for_a_newer_one(saved):
    saved.point_latest(saved.at(4))
    assert saved.latest() == saved.at(4)


def test_damage_that_was_passed_over_does_not_push_out_an_intact_one(saved):
    """Damaged: steps 4 and 5. Two are kept, and what comes after the step that was saved last is not one of them."""
    for step in (4, 5):
        (saved.at(step) / "weights.pt").write_bytes(b"")
    assert saved.latest() == saved.at(2)
    saved.save(Files(), 3, {"step": 3})
    assert names(saved) == [f"step-0000000{step}" for step in (2, 3, 4, 5)] and saved.latest() == saved.at(3)
    saved.save(Files(), 4, {"step": 4})
    saved.save(Files(), 5, {"step": 5})
    assert [check(path)["step"] for path in (saved.at(4), saved.at(5))] == [4, 5]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda file: file.unlink(), "lacks weights.pt"),
        (lambda file: file.write_bytes(b"weights of 6"), "weights.pt is damaged"),
        (lambda file: file.write_bytes(b""), "weights.pt is damaged"),
        (lambda file: (file.parent / "checkpoint.json").unlink(), "is no checkpoint"),
    ],
)
def test_damage_is_named_with_what_to_do(saved, damage, words):
    damage(saved.at(5) / "weights.pt")
    with pytest.raises(CheckpointError, match=words):
        check(saved.at(5))


def test_what_a_killed_save_left_behind_is_removed_and_never_taken(saved):
    leftover = saved.folder / ".writing-step-00000006"
    leftover.mkdir()
    (leftover / "weights.pt").write_bytes(b"half")
    assert saved.latest().name == "step-00000005"
    saved.save(Files(), 6, {"step": 6})
    assert not leftover.exists()
    assert check(saved.latest())["step"] == 6


def test_a_step_that_is_saved_again_replaces_the_folder(saved):
    saved.save(Files(), 5, {"step": "5 again"})
    assert load(Files(), Start(saved.latest())) == (5, {"step": 5, "content": b"weights of 5 again"})


def layout(ranks, stage):
    """Of an engine."""
    return {"world_size": ranks, "zero_stage": stage}


def test_the_same_layout_is_loaded_as_it_is(saved):
    assert saved.for_layout(saved.at(5), layout(1, 1)) == Start(saved.at(5))


def test_zero_0_divides_nothing_and_is_never_converted(saved):
    index = json.loads((saved.at(5) / INDEX).read_text())
    (saved.at(5) / INDEX).write_text(json.dumps({**index, "zero_stage": 0}))
    assert saved.for_layout(saved.at(5), layout(4, 0)) == Start(saved.at(5))
    with pytest.raises(CheckpointError, match="ZeRO 0 and this run has ZeRO 2.*Set engine.zero_stage to 0"):
        saved.for_layout(saved.at(5), layout(1, 2))


def test_the_state_before_the_first_update_is_a_fresh_engines(saved):
    saved.save(Files(), 0, {"step": 0})
    assert saved.for_layout(saved.at(0), layout(2, 1)) is None


def test_what_cannot_be_converted_is_said_and_leaves_nothing(saved):
    """The files are not DeepSpeed's."""
    before = sorted(saved.folder.rglob("*"))
    with pytest.raises(ValueError, match="DeepSpeed could not make .*step-00000005 fit for other ranks.*: "):
        saved.for_layout(saved.at(5), layout(2, 1))
    assert sorted(saved.folder.rglob("*")) == before


@pytest.mark.parametrize("kept", [True, False])
def test_a_finished_run_keeps_its_checkpoints_unless_nobody_wants_them(tmp_path, kept):
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", CheckpointConfig(keep_finished=kept))
    checkpoints.save(Files(), 1, {"step": 1})
    (checkpoints.folder / "universal").mkdir()
    (tmp_path / "run" / "result.json").write_text("{}")
    checkpoints.close()
    assert checkpoints.folder.exists() == kept and (tmp_path / "run" / "result.json").is_file()
    assert checkpoints.latest() == (checkpoints.at(1) if kept else None)
    assert not (checkpoints.folder / "universal").exists()


def test_a_best_step_that_is_overtaken_goes(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", CheckpointConfig(keep_last=1))
    for step, best in ((1, 1), (2, 1), (3, 3), (4, 3), (5, 3)):
        checkpoints.save(Files(), step, {"step": step}, needed={best})
    assert names(checkpoints) == ["step-00000003", "step-00000005"]


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert Checkpoints(tmp_path / "checkpoints", CheckpointConfig()).latest() is None
