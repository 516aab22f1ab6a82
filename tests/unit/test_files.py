"""Folders that are whole or leave no trace, and what is said when a disk is full."""

import errno

import pytest

from ofa.files import DiskFull, check_space, explained_space, free_bytes, is_disk_full, new_folder


def test_a_folder_that_fails_while_it_is_built_leaves_no_trace_and_what_stood_there_stands(tmp_path):
    with pytest.raises(RuntimeError, match="no"), new_folder(tmp_path / "deep" / "er" / "final") as building:
        (building / "half").write_text("half")
        raise RuntimeError("no")
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        with new_folder(tmp_path / "final") as building:
            (building / "file").write_text(text)
    with pytest.raises(RuntimeError), new_folder(tmp_path / "final") as building:
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert (tmp_path / "final" / "file").read_text() == "second"


def test_what_does_not_fit_is_refused_with_both_numbers(tmp_path):
    free = free_bytes(tmp_path / "not" / "there" / "yet")
    check_space(tmp_path / "not", "a model", 0.5 * free, "go away")
    with pytest.raises(DiskFull, match=r"a model: .* needed in .*not, .* free; go away"):
        check_space(tmp_path / "not", "a model", 2 * free + 1e9, "go away")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
    ids=["disk", "quota", "safetensors", "torch"],
)
def test_every_way_of_saying_that_a_disk_is_full_names_the_folder(tmp_path, error):
    (tmp_path / "half").write_bytes(b"0" * 20_000)
    outer = RuntimeError("while saving")
    outer.__cause__ = error
    for one in (error, outer):
        words = rf"a checkpoint: no space left in {tmp_path}.*\(0.02 MB are used.*go away"
        with pytest.raises(DiskFull, match=words), explained_space(tmp_path, "a checkpoint", "go away"):
            raise one


def test_other_errors_pass_as_they_are(tmp_path):
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    with pytest.raises(PermissionError), explained_space(tmp_path, "a checkpoint", "go away"):
        raise PermissionError(errno.EACCES, "Permission denied")
