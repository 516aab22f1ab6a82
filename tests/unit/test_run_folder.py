"""One owner of a run folder, one config in it."""

import errno
import fcntl
import os
import subprocess
import sys
import threading

import pytest

from ofa.config import RunConfig, load
from ofa.cost import Size
from ofa.files import DiskFull
from ofa.run_files import RunFolderError, is_held, read_json
from ofa.run_folder import RunFolder
from tests.processes import environment

HOLDER = """
import sys, time
from pathlib import Path
from ofa.cost import Size
from ofa.files import DiskFull
from ofa.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
folder.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_run_is_refused_while_the_first_lives_and_not_after_it_was_killed(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    holder = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunFolderError, match=f"in use by host .*, pid {holder.pid}; stop that run or choose another"):
        RunFolder(tmp_path).acquire()
    holder.kill()
    holder.wait()
    RunFolder(tmp_path).acquire()


def test_who_only_looks_whether_a_folder_is_held_keeps_no_run_from_it(tmp_path):
    """A look has the lock for a moment, which here is long."""
    with (tmp_path / "lock").open("a") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(0.15, look.close).start()
        folder = RunFolder(tmp_path)
        folder.acquire()
    assert is_held(tmp_path)
    folder.release()
    assert not is_held(tmp_path)


def test_what_decides_the_result_may_not_change_and_the_rest_may(tmp_path):
    folder, config = RunFolder(tmp_path), load(RunConfig, "tiny/ofa_90.json")
    folder.record(config, "data", 1, 10)
    folder.check(load(RunConfig, "tiny/ofa_90.json", ["log.every=1", "data.workers=0"]), "data")
    with pytest.raises(RunFolderError, match=r"optimizer.lr \(0.001 -> 0.002\)"):
        folder.check(load(RunConfig, "tiny/ofa_90.json", ["optimizer.lr=2e-3"]), "data")
    with pytest.raises(RunFolderError, match="started on other data"):
        folder.check(config, "other data")


def test_the_record_says_what_was_run_with_what(tmp_path):
    RunFolder(tmp_path).record(load(RunConfig, "tiny/ofa_90.json"), "data", 2, 10)
    record = read_json(tmp_path / "config.json")
    assert record["world_size"] == 2 and record["config"]["pruning"]["sparsity"] == 0.9
    assert record["versions"].keys() >= {"python", "torch", "deepspeed", "transformers"}
    assert record["hardware"]["cores"] == os.cpu_count()


def test_a_missing_or_damaged_record_is_named(tmp_path):
    with pytest.raises(RunFolderError, match="config.json is missing"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunFolderError, match="config.json is damaged"):
        read_json(tmp_path / "config.json")


def test_a_run_that_is_refused_before_it_began_leaves_its_folder_as_found(tmp_path):
    for path in (tmp_path / "a" / "b" / "run", tmp_path / "mine"):
        folder = RunFolder(path)
        if path.name == "mine":
            path.mkdir()
            (path / "notes.txt").write_text("mine")
        folder.acquire()
        folder.log.write_text("refused")
        folder.tensorboard.mkdir()
        (folder.tensorboard / "events").write_text("")
        folder.release()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "notes.txt"]


def test_a_run_that_has_begun_stays_and_its_lock_is_free(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.acquire()
    folder.record(load(RunConfig, "tiny/ofa_90.json"), "data", 1, 10)
    folder.release()
    files = {path.name: path.stat().st_size > 0 for path in folder.path.iterdir()}
    assert files == {"config.json": True, "lock": False}


def test_being_refused_by_a_live_run_takes_nothing_of_it_away(tmp_path):
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    first.acquire()
    first.log.write_text("going on")
    with pytest.raises(RunFolderError, match="in use"):
        second.acquire()
    second.release()
    assert sorted(path.name for path in first.path.iterdir()) == ["lock", "log.txt"]


def test_a_disk_that_is_too_small_is_refused_with_what_is_needed(tmp_path):
    config, huge = load(RunConfig, "tiny/ofa_90.json"), Size(10**15, 10**14)
    with pytest.raises(DiskFull, match=r"3 checkpoints of .* GB and a model: .* needed in .*, .* free; .*keep_last"):
        RunFolder(tmp_path).check_space(config, huge)
    RunFolder(tmp_path).check_space(config, Size(1000, 100))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_refused_with_the_mount_option_that_gives_them(tmp_path, monkeypatch, number):
    """Lustre's answer where it is mounted without: no such file system can be had here."""

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(RunFolderError, match=rf"new.lock: .*{os.strerror(number)}.*mount option flock"):
        RunFolder(tmp_path / "new").acquire()
    assert not (tmp_path / "new").exists()
    (tmp_path / "lock").touch()
    with pytest.raises(RunFolderError, match="mount option flock"):
        is_held(tmp_path)
