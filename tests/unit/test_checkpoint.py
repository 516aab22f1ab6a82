"""Checkpoints are complete or absent, and what is wrong with one is said."""

import pytest

from ofa.checkpoint import CheckpointError, Checkpoints, check, load
from ofa.config import CheckpointConfig


class Files:
    """What an engine writes, without an engine."""

    def save(self, folder, tag, client_state):
        """One file."""
        (folder / tag).mkdir()
        (folder / tag / "weights.pt").write_bytes(b"weights of " + str(client_state["step"]).encode())

    def load(self, folder, tag):
        """Its content."""
        return {"content": (folder / tag / "weights.pt").read_bytes()}


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
    assert load(Files(), saved.latest()) == (5, {"content": b"weights of 5"})
    assert not [path for path in saved.folder.iterdir() if path.name.startswith(".")]


def test_a_pinned_step_stays_while_its_neighbours_go(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", CheckpointConfig(keep_last=1))
    for step in range(6):
        checkpoints.save(Files(), step, {"step": step}, pinned=3)
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
    assert load(Files(), own.at(4)) == load(Files(), source) == (4, {"content": b"weights of 4"})
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


def test_a_pointer_to_nothing_names_what_is_there(saved):
    (saved.folder / "latest").write_text("step-00000009\n")
    with pytest.raises(CheckpointError, match="step-00000009, which is missing.*step-00000005.*--resume"):
        saved.latest()


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
    damage(saved.latest() / "weights.pt")
    with pytest.raises(CheckpointError, match=words):
        load(Files(), saved.latest())


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
    assert load(Files(), saved.latest()) == (5, {"content": b"weights of 5 again"})


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert Checkpoints(tmp_path / "checkpoints", CheckpointConfig()).latest() is None
