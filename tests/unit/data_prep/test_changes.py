"""A source that is no longer the one that data was prepared from, and folders that hold something else."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data_prep import sources
from data_prep.__main__ import main
from data_prep.changes import compare_source, file_changes
from data_prep.documents import DataPrepError
from data_prep.work import refuse_foreign_folder, start_or_continue
from ofa.config import DataPrepConfig, SourceConfig
from ofa.data.manifest import read_manifest, write_manifest

LINE = '{"id": "x", "text": "A new document.", "wing": "w"}\n'


@pytest.fixture(scope="module")
def once(tools, text, tmp_path_factory):
    """A folder with a text, data prepared from it, and a config file."""
    folder = tmp_path_factory.mktemp("once")
    shutil.copytree(text, folder / "text")
    config = tools.config_for(folder / "text")
    (folder / "config.json").write_text(config.model_dump_json())
    tools.run(config, folder / "out")
    return folder


@pytest.fixture
def source(once):
    """The text; what a test does to it is undone, and the times of writing stay."""
    kept = once.parent / "kept"
    shutil.copytree(once / "text", kept)
    yield once / "text"
    shutil.rmtree(once / "text")
    kept.rename(once / "text")


def command(once: Path, output: str = "out") -> int:
    """The command, in this process."""
    return main(["--config", str(once / "config.json"), "--output", str(once / output), "--workers", "1"])


def add(source: Path) -> str:
    """A file more."""
    (source / "more.jsonl").write_text(LINE)
    return "1 added (more.jsonl)"


def take(source: Path) -> str:
    """Two files less."""
    (source / "0.jsonl").unlink()
    (source / "2.jsonl").unlink()
    return "2 removed (0.jsonl, ...)"


def lengthen(source: Path) -> str:
    """A file with a line more."""
    before = (source / "1.jsonl").stat().st_size
    with (source / "1.jsonl").open("a") as file:
        file.write(LINE)
    return f"1 of another size (1.jsonl, {before} -> {before + len(LINE)} bytes)"


def rename(source: Path) -> str:
    """A file under another name."""
    (source / "1.jsonl").rename(source / "one.jsonl")
    return "1 added (one.jsonl), 1 removed (1.jsonl)"


@pytest.mark.parametrize("change", [add, take, lengthen, rename])
def test_data_of_other_files_is_refused_with_what_changed(tools, once, source, capsys, change):
    before = tools.sums(once / "out")
    said = change(source)
    assert command(once) == 1
    answer = capsys.readouterr()
    assert answer.out == "" and tools.sums(once / "out") == before
    assert answer.err == (
        f"error: {once / 'out'}: prepared from other files than the source holds now: {said}; to use them choose "
        f"another --output, or remove {once / 'out'} and run again\n"
    )


def test_data_of_the_same_files_is_reused_and_how_they_were_compared_is_said(once, source, capsys):
    assert command(once) == 0
    answer = capsys.readouterr()
    assert answer.out.splitlines()[0] == (
        f"{once / 'out'}: already prepared; the source holds the same 4 files, by name and size; their content was not "
        "compared"
    )
    assert answer.err == ""


def test_a_file_of_the_same_size_that_was_written_later_is_noted(once, source, capsys):
    time = (once / "out" / "manifest.json").stat().st_mtime_ns + 1_000_000_000
    os.utime(source / "2.jsonl", ns=(time, time))
    assert command(once) == 0
    note = capsys.readouterr().err
    assert note.startswith("note: files written after the data was prepared: 1 (2.jsonl); if their text has changed")
    assert f"remove {once / 'out'} and run again" in note


def test_a_source_that_is_gone_leaves_the_data_as_it_is_with_a_note(once, source, capsys):
    for path in source.iterdir():
        path.unlink()
    assert command(once) == 0
    answer = capsys.readouterr()
    assert answer.out.splitlines()[0] == f"{once / 'out'}: already prepared"
    assert "note: the source cannot be compared with what the data was prepared from: source.paths" in answer.err


@pytest.mark.parametrize("lacking", ["source", "files"])
def test_data_of_before_there_was_a_list_of_files_is_reused_without_a_word(once, source, tmp_path, capsys, lacking):
    shutil.copytree(once / "out", once / "old")
    try:
        manifest = read_manifest(once / "old")
        del (manifest if lacking == "source" else manifest["source"])[lacking]
        write_manifest(once / "old", manifest)
        add(source)
        assert command(once, "old") == 0
        answer = capsys.readouterr()
        assert answer.out.splitlines()[0] == f"{once / 'old'}: already prepared" and answer.err == ""
    finally:
        shutil.rmtree(once / "old")


def test_work_that_was_begun_from_other_files_starts_anew_with_a_note(tools, once, source, tmp_path, capsys):
    config = tools.config_for(source)
    (tmp_path / "new").mkdir()
    start_or_continue(tmp_path / "new" / ".work", config, sources.units(config.source, config.shard_characters))
    said = add(source)
    assert main(["--config", str(once / "config.json"), "--output", str(tmp_path / "new"), "--workers", "1"]) == 0
    note = f"note: the source has changed since {tmp_path / 'new'} was begun: {said}; it starts anew"
    assert note in capsys.readouterr().err.splitlines()
    assert "more.jsonl" in read_manifest(tmp_path / "new")["source"]["files"]


def test_a_damaged_folder_is_not_called_prepared(once, source, capsys):
    shutil.copytree(once / "out", once / "cut")
    try:
        shard = once / "cut" / "train" / "shard-00000.tar"
        shard.write_bytes(shard.read_bytes()[:-1])
        assert command(once, "cut") == 1
        assert "shard-00000.tar: " in (error := capsys.readouterr().err) and "; restore it " in error
    finally:
        shutil.rmtree(once / "cut")


def test_versions_of_installed_packages_and_datasets_are_never_a_reason_to_refuse(tmp_path):
    docstrings = DataPrepConfig(source=SourceConfig(kind="docstrings"))
    old = {"source": {"kind": "docstrings", "python": "3.1.4"}}
    note = compare_source(docstrings, old, tmp_path).note
    assert note is not None and "the source has changed since then (python" in note
    hub = DataPrepConfig(source=SourceConfig(kind="hub", dataset="not/there"))
    assert compare_source(hub, {"source": {}}, tmp_path) == ("the dataset was not looked at again", None)


# ---- lists of files -----------------------------------------------------------------------------------------------

names = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
lists = st.dictionaries(names.map(lambda name: f"{name}.txt"), st.integers(0, 3), max_size=8)
ANCHORS = {"x/anchor.txt": 1, "y/anchor.txt": 2}
"""Files in two folders, so that names begin at the same folder whatever else is there."""


@given(old=lists, now=lists)
def test_every_file_that_was_added_removed_or_resized_is_counted(old, now):
    old, now = {**ANCHORS, **old}, {**ANCHORS, **now}
    added, removed = sorted(now.keys() - old.keys()), sorted(old.keys() - now.keys())
    resized = sorted(name for name in now.keys() & old.keys() if old[name] != now[name])
    said = file_changes(old, now)
    assert (said is None) == (old == now)
    if said is not None and not any(name.count("/") for name in {*added, *removed, *resized}):
        for found, word in ((added, "added"), (removed, "removed"), (resized, "of another size")):
            assert (f"{len(found)} {word} ({found[0]}" in said) if found else (word not in said)


@given(paths=st.lists(names, min_size=2, max_size=8, unique=True), data=st.data())
def test_files_that_move_the_common_folder_are_all_that_is_said_to_be_added_or_removed(paths, data):
    every = {f"{path}/{number}.txt": number for number, path in enumerate(paths)}
    some = data.draw(st.sets(st.sampled_from(sorted(every)), min_size=1))
    assume(len(some) < len(every))
    first = sorted(every.keys() - some)[0]

    def named(chosen):
        root = os.path.commonpath([os.path.dirname(name) for name in chosen]) if chosen else ""
        root = f"{root}/" if root else ""
        return {name.removeprefix(root): every[name] for name in chosen}, root

    (few, _), (all_, root) = named(sorted(some)), named(sorted(every))
    other = len(every) - len(some)
    ending = ", ..." if other > 1 else ""
    assert file_changes(few, all_) == f"{other} added ({first.removeprefix(root)}{ending})"
    assert file_changes(all_, few) == f"{other} removed ({first.removeprefix(root)}{ending})"


# ---- folders that hold something else ------------------------------------------------------------------------------

FOREIGN = {
    "a file": (["notes.txt"], "notes.txt"),
    "runs": (["a/log.txt", "b/log.txt"], "a/, b/"),
    "a hidden file": ([".gitignore"], ".gitignore"),
    "many": ([f"{number}.txt" for number in range(8)], "0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 3 more"),
    "work of another program": ([".work/job.txt"], ".work/"),
    "a plan of another program": ([".work/plan.json", "a.txt"], "a.txt"),
    "half of a prepared folder": (["train/shard-00000.tar"], "train/"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_folder_that_holds_something_else_is_refused_before_anything_is_written(tools, once, tmp_path, capsys, kind):
    files, named = FOREIGN[kind]
    output = tmp_path / "runs"
    for name in files:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text("{}")
    before, times = tools.sums(output), output.stat().st_mtime_ns
    assert main(["--config", str(once / "config.json"), "--output", str(output), "--workers", "1"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {output}: holds {named}, but neither prepared data nor the unfinished work of a preparation; choose "
        "another --output, one that is empty or not there yet, or move away what it holds"
    )
    assert tools.sums(output) == before and output.stat().st_mtime_ns == times


def test_the_manifest_of_another_program_is_refused_before_anything_is_written(tools, once, tmp_path, capsys):
    (tmp_path / "manifest.json").write_text(json.dumps({"name": "an app"}))
    assert main(["--config", str(once / "config.json"), "--output", str(tmp_path)]) == 1
    assert "; name another folder, or prepare the data in a new one" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("rest", [[], [".lock"], [".work/.writing-plan.json"], [".lock", ".work/extract/00000.json"]])
def test_an_empty_folder_and_the_rest_of_a_killed_run_serve(tools, once, source, tmp_path, rest):
    for name in rest:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    refuse_foreign_folder(tmp_path)
    refuse_foreign_folder(tmp_path / "not there")
    tools.run(tools.config_for(source), tmp_path, 1)
    expected = tools.sums(once / "out")
    assert tools.sums(tmp_path) == expected


def test_a_finished_folder_is_never_prepared_over(tools, once, source):
    names = "card.html, documents/, manifest.json, rejects.jsonl, tokenizer/ and 2 more"
    with pytest.raises(DataPrepError, match=f"holds {names}"):
        tools.run(tools.config_for(source), once / "out", 1)


def test_an_output_within_its_source_is_no_part_of_it(tools, text, tmp_path, capsys):
    """Neither while it is made nor afterwards, nor for another output there."""
    shutil.copytree(text, tmp_path / "all" / "text")
    config = tools.config_for(tmp_path / "all")
    (tmp_path / "config.json").write_text(config.model_dump_json())
    assert command(tmp_path, "all/out") == 0
    first = read_manifest(tmp_path / "all" / "out")["fingerprint"]
    assert command(tmp_path, "all/out") == 0
    assert "already prepared" in capsys.readouterr().out
    assert command(tmp_path, "all/other") == 0
    assert read_manifest(tmp_path / "all" / "other")["fingerprint"] == first
