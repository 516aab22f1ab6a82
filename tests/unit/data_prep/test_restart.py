"""Interrupted, damaged and mistaken preparations."""

import errno
import fcntl
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import sources
from data_prep.__main__ import _advice, main
from data_prep.changes import changes_since_plan
from data_prep.documents import DataPrepError
from data_prep.extract import extract
from data_prep.pipeline import finished, prepare
from ofa.data.shards import Corpus, write_manifest


@pytest.fixture(scope="module")
def prepared(tools, text, tmp_path_factory):
    """Prepared shards, with the config."""
    output = tmp_path_factory.mktemp("prepared") / "data"
    config = tools.config_for(text)
    tools.run(config, output)
    return config, output


def kill_at(stage: str, begin: Callable[[Path], subprocess.Popen], folder: Path) -> Path:
    """Start runs, each in a folder of its own, until one is killed between the first file of `stage` and its end."""
    for attempt in range(5):
        output = folder / f"out{attempt}"
        process = begin(output)
        while not list((output / ".work").glob(stage)) and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if not (output / "manifest.json").exists():
            return output
    raise AssertionError("five runs ended before they could be killed")


@pytest.mark.parametrize("stage", ["extract/*.json", "tokenizer.json", "encode/*.json"])
def test_a_run_killed_anywhere_continues_and_ends_with_the_same_bytes(tools, text, prepared, tmp_path, stage):
    config, expected = prepared
    output = kill_at(stage, lambda output: tools.start(config, tmp_path, output), tmp_path)
    assert not any((output / name).exists() for name in ("train", "validation", "tokenizer"))
    kept = {path: path.stat().st_mtime_ns for path in (output / ".work").glob(stage)}
    assert kept
    redone = []

    def watch(step: str, done: int, total: int) -> None:
        redone.extend(path for path, written in kept.items() if path.exists() and path.stat().st_mtime_ns != written)

    prepare(config, output, 2, watch)
    assert redone == []
    assert tools.sums(output) == tools.sums(expected)


def test_a_run_killed_while_files_move_to_their_names_continues(tools, prepared, tmp_path, monkeypatch):
    config, expected = prepared
    moved = []

    def failing(source: Path, target: Path) -> None:
        if len(moved) == 5:
            raise OSError(28, "No space left on device", str(target))
        moved.append(target)
        os.replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("data_prep.pipeline._move", failing)
        with pytest.raises(OSError, match="no space left in"):
            tools.run(config, tmp_path / "out")
    assert finished(config, tmp_path / "out") is None
    tools.run(config, tmp_path / "out")
    assert tools.sums(tmp_path / "out") == tools.sums(expected)


def test_what_a_run_left_that_was_killed_after_the_manifest_is_removed(tools, prepared, tmp_path, monkeypatch, capsys):
    config, expected = prepared
    (tmp_path / "config.json").write_text(config.model_dump_json())
    arguments = ["--config", str(tmp_path / "config.json"), "--output", str(tmp_path / "out")]

    def write_and_die(folder: Path, manifest: dict) -> None:
        write_manifest(folder, manifest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("data_prep.pipeline.write_manifest", write_and_die)
        assert main([*arguments, "--workers", "2"]) == 75
    assert (tmp_path / "out" / ".work" / "plan.json").is_file()
    with (tmp_path / "out" / ".lock").open("w") as lock:  # it may be at that still
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(arguments) == 0
    assert ".work, left by a run that was killed, stays: " in capsys.readouterr().err
    assert main(arguments) == 0
    assert "already prepared" in capsys.readouterr().out
    assert tools.sums(tmp_path / "out") == tools.sums(expected)


@pytest.fixture
def half_done(tools, tmp_path, monkeypatch):
    """A text of one's own and its config; `out` beside it holds a preparation that was stopped after extraction."""
    own = tmp_path / "text"
    tools.write_text(own)
    config = tools.config_for(own)

    def stop(*_) -> None:
        raise OSError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("data_prep.pipeline._encode", stop)
        with pytest.raises(OSError, match="stopped"):
            tools.run(config, tmp_path / "out")
    return own, config


def test_unfinished_work_of_another_config_is_refused_and_of_another_input_redone(tools, half_done, tmp_path):
    own, config = half_done
    with pytest.raises(DataPrepError, match=r"another config: seed \(42 -> 1\)"):
        tools.run(tools.config_for(own, seed=1), tmp_path / "out")
    (own / "3.jsonl").unlink()
    assert tools.run(config, tmp_path / "out")["statistics"]["documents_read"] == 120


def test_unfinished_work_of_a_file_that_was_written_anew_in_the_same_size_is_redone(tools, half_done, tmp_path):
    own, config = half_done
    path = own / "3.jsonl"
    path.write_bytes(path.read_bytes().swapcase().replace(b'"TEXT"', b'"text"').replace(b'"WING"', b'"wing"'))
    assert changes_since_plan(config, tmp_path / "out" / ".work") == "1 written anew (3.jsonl)"
    assert changes_since_plan(tools.config_for(own, seed=1), tmp_path / "out" / ".work") is None
    tools.run(config, tmp_path / "out")
    tools.run(config, tmp_path / "fresh")
    assert tools.sums(tmp_path / "out") == tools.sums(tmp_path / "fresh")


def test_a_source_that_changes_while_it_is_read_is_refused_and_read_anew(tools, tmp_path):
    own = tmp_path / "text"
    tools.write_text(own)
    config = tools.config_for(own)

    def write_more(step: str, done: int, total: int) -> None:
        if step == "extract" and done == 1:
            (own / "more.jsonl").write_text('{"id": "x", "text": "A new document.", "wing": "w"}\n')

    with pytest.raises(DataPrepError, match=r"changed while it was read: 1 added \(more.jsonl\); run the same command"):
        prepare(config, tmp_path / "out", 1, write_more)
    assert tools.run(config, tmp_path / "out")["statistics"]["documents_read"] == 161


def test_a_config_that_failed_at_once_may_be_corrected(tools, text, tmp_path):
    with pytest.raises(DataPrepError, match="no text in field 'body'"):
        tools.run(tools.config_for(text, source={"text_field": "body"}), tmp_path / "out")
    tools.run(tools.config_for(text), tmp_path / "out")
    assert Corpus.open(tmp_path / "out").verify() == []


def test_two_runs_in_one_folder_are_refused(tools, text, tmp_path):
    config, refused = tools.config_for(text), []

    def second(step: str, done: int, total: int) -> None:
        if not refused:
            with pytest.raises(DataPrepError, match="another run is"):
                tools.run(config, tmp_path / "out")
            refused.append(step)

    prepare(config, tmp_path / "out", 1, second)
    assert refused


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_refused_with_the_mount_option_that_gives_them(
    tools, text, tmp_path, monkeypatch, number
):
    """Lustre's answer where it is mounted without: no such file system can be had here."""

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    words = rf"new/.lock: .*{os.strerror(number)}.*mount option flock.*choose another --output"
    with pytest.raises(DataPrepError, match=words):
        tools.run(tools.config_for(text), tmp_path / "deep" / "new")
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2])
@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["to the process", "to its group"])
def test_a_signal_stops_soon_with_status_75_and_the_run_continues(tools, text, prepared, tmp_path, number, send):
    """Ctrl-C and a scheduler reach all processes of a job; `kill` reaches one."""
    config, expected = prepared
    for _ in range(8):  # on a busy machine this small run may end before the signal reaches it
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        process = tools.start(config, tmp_path, tmp_path / "out")
        while not list((tmp_path / "out" / ".work").glob("extract/*")) and process.poll() is None:
            time.sleep(0.001)
        if process.poll() is None:
            send(process.pid, number)
        _, error = process.communicate(timeout=60)
        if process.returncode != 0:
            break
    assert process.returncode == 75
    *steps, last = error.decode().splitlines()
    assert last == "stopped; run the same command to continue, finished parts are kept"
    line_of_step = re.compile(r"\d of 4, \w+: \d+ of \d+ parts?, \d+ s(, \d:\d\d:\d\d left)?")
    assert all(line_of_step.fullmatch(line) for line in steps), "no traceback, no warning"
    tools.run(config, tmp_path / "out")
    assert tools.sums(tmp_path / "out") == tools.sums(expected)


def test_a_run_under_nohup_outlives_its_session(tools, text, prepared, tmp_path):
    config, expected = prepared
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does, for the process that is started now
    try:
        process = tools.start(config, tmp_path, tmp_path / "out")
    finally:
        signal.signal(signal.SIGHUP, before)
    while not list((tmp_path / "out" / ".work").glob("extract/*")) and process.poll() is None:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0 and tools.sums(tmp_path / "out") == tools.sums(expected)


def test_two_writers_of_one_unit_leave_it_whole(tools, tmp_path):
    """A job that was thought to be gone: it comes to its end after another has done its work, or never does."""
    tools.write_text(tmp_path / "text", files=1, documents=30_000)
    config = tools.config_for(tmp_path / "text", shard_characters=10**8)
    (tmp_path / "extract").mkdir()
    (unit,) = sources.all_units(config)
    first = multiprocessing.get_context("spawn").Process(target=extract, args=(config, unit, 0, tmp_path / "extract"))
    first.start()
    while not list((tmp_path / "extract").iterdir()) and first.is_alive():
        time.sleep(0.002)
    assert first.pid is not None and not (tmp_path / "extract" / "00000.json").exists()
    os.kill(first.pid, signal.SIGSTOP)
    result = extract(config, unit, 0, tmp_path / "extract")
    path = tmp_path / "extract" / f"{result['pieces'][0]['name']}.jsonl.zst"
    whole = path.read_bytes()
    os.kill(first.pid, signal.SIGCONT)
    first.join()
    assert first.exitcode == 0 and path.read_bytes() == whole
    assert [path.name for path in (tmp_path / "extract").glob(".*")] == []


def test_what_killed_writers_left_is_removed_by_the_next_run(tools, half_done, tmp_path):
    _, config = half_done
    left = tmp_path / "out" / ".work" / "extract" / ".writing-00000-node-17-x"
    left.mkdir()
    (left / "00000-00000.jsonl.zst").write_bytes(b"half")
    seen = []
    prepare(config, tmp_path / "out", 1, lambda *_: seen.append(left.exists()))
    assert seen and not any(seen)


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "free space"), (errno.EDQUOT, "free space"), (errno.EROFS, "rights"), (errno.EIO, "$")],
)
def test_what_to_do_about_an_error_of_the_disk_depends_on_which_it_is(number, advice):
    said = _advice(OSError(number, os.strerror(number), "/data/x"))
    assert re.search(advice, said) and ("free space" in said) == (advice == "free space")
