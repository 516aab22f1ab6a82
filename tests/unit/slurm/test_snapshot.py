"""The code that a job runs, from real git repositories."""

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from ofa.slurm.errors import SubmitError
from ofa.slurm.snapshot import LEFT, snapshot


def git(folder, *arguments):
    """Run git; what it says."""
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A repository with code, and with other things."""
    folder = tmp_path / "checkout"
    for name in ("ofa/a.py", "ofa/inner/b.py", "launch/x.py", "configs/c.json", "docs/d.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / ".gitignore").write_text("__pycache__/\n")
    git(tmp_path, "init", "-q", str(folder))
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def files(folder):
    """Names and texts."""
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_a_commit_is_copied_whole_and_once(checkout, tmp_path):
    code = snapshot(checkout, tmp_path / "jobs" / "code")
    head = git(checkout, "rev-parse", "HEAD")
    assert code.commit == head and code.path == tmp_path / "jobs" / "code" / head
    assert not code.path.exists(), "nothing is written before it is made"
    code.make()
    names = ("ofa/a.py", "ofa/inner/b.py", "launch/x.py", "configs/c.json")
    assert files(code.path) == {name: name for name in names} | {".commit": f"{head}\n"}
    (code.path / "ofa" / "a.py").write_text("in use")
    snapshot(checkout, tmp_path / "jobs" / "code").make()
    assert (code.path / "ofa" / "a.py").read_text() == "in use"


def test_who_copies_at_once_finds_one_whole_copy(checkout, tmp_path):
    """Two submissions of one commit: neither takes away what the other builds, or what its jobs run already."""
    for number in range(200):
        (checkout / "ofa" / f"{number}.py").write_text(str(number))
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "many")
    code = snapshot(checkout, tmp_path / "code")
    together = Barrier(4)

    def make(_):
        together.wait()
        code.make()
        return (code.path.stat().st_ino, len(files(code.path)))

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(make, range(4)))
    ((_, count),) = found
    assert count == 205 and [path.name for path in (tmp_path / "code").iterdir()] == [code.path.name]


def test_changes_are_refused_by_name_or_copied(checkout, tmp_path):
    (checkout / "ofa" / "a.py").write_text("changed")
    (checkout / "configs" / "new.json").write_text("new")
    (checkout / "ofa" / "inner" / "b.py").unlink()
    (checkout / "docs" / "d.md").write_text("no code")
    (checkout / "ofa" / "__pycache__").mkdir()
    (checkout / "ofa" / "__pycache__" / "a.pyc").write_text("")
    with pytest.raises(SubmitError) as caught:
        snapshot(checkout, tmp_path / "code")
    for name in ("ofa/a.py", "configs/new.json", "ofa/inner/b.py", "--uncommitted"):
        assert name in str(caught.value)
    assert "docs" not in str(caught.value)
    code = snapshot(checkout, tmp_path / "code", uncommitted=True)
    code.make()
    head = git(checkout, "rev-parse", "HEAD")
    expected = {"ofa/a.py": "changed", "configs/new.json": "new", "launch/x.py": "launch/x.py"}
    assert files(code.path) == expected | {"configs/c.json": "configs/c.json", ".commit": f"{head}-dirty\n"}
    (checkout / "ofa" / "a.py").write_text("changed again")
    assert snapshot(checkout, tmp_path / "code", uncommitted=True).path != code.path


def test_only_what_is_no_code_may_differ(checkout, tmp_path):
    (checkout / "docs" / "d.md").write_text("no code")
    assert snapshot(checkout, tmp_path / "code").commit == git(checkout, "rev-parse", "HEAD")


def test_a_repository_that_git_will_not_read_is_no_reason_to_run_something_else(checkout, tmp_path):
    """As where it belongs to somebody else; here its head leads nowhere."""
    (checkout / ".git" / "HEAD").write_text("ref: refs/heads/gone\n")
    with pytest.raises(SubmitError, match=f"git rev-parse in {checkout} says"):
        snapshot(checkout, tmp_path / "code")


def test_without_git_the_checkout_is_the_code(tmp_path):
    (tmp_path / "ofa").mkdir()
    code = snapshot(tmp_path, tmp_path / "code")
    code.make()
    assert code.path == tmp_path and code.commit is None and not (tmp_path / "code").exists()


def test_a_job_that_submits_others_gives_them_its_own_copy(checkout, tmp_path):
    """The copy lies in a folder that the repository ignores: git would speak of the checkout around it."""
    (checkout / ".gitignore").write_text("__pycache__/\nruns/\n")
    git(checkout, "commit", "-qam", "ignored")
    code = snapshot(checkout, checkout / "runs" / "code")
    code.make()
    (checkout / "ofa" / "a.py").write_text("work goes on")
    inner = snapshot(code.path, tmp_path / "others")
    assert (inner.path, inner.commit) == (code.path, code.commit)
    inner.make()
    assert not (tmp_path / "others").exists()


def test_what_killed_submissions_have_left_goes_when_it_is_surely_dead(checkout, tmp_path):
    folder = tmp_path / "code"
    for name, age in ((".writing-old-host-1-abc", 2 * LEFT), (".writing-new-host-2-abc", 60.0), ("whole", 9 * LEFT)):
        (folder / name / "ofa").mkdir(parents=True)
        os.utime(folder / name, (time.time() - age,) * 2)
    code = snapshot(checkout, folder)
    code.make()
    assert {path.name for path in folder.iterdir()} == {".writing-new-host-2-abc", "whole", code.path.name}
