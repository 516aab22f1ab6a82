"""Run folders as runs leave them, written without training."""

import json
import os
import time

import pytest

from ofa.run_folder import RunFolder
from tests.corpora import write_corpus
from tests.e2e.conftest import TINY

TOTAL = 100


class Folder:
    """A run folder that is filled file by file."""

    def __init__(self, path):
        self.path = path
        path.mkdir(parents=True)

    def begun(self, total=TOTAL):
        """config.json, as a run writes it."""
        record = {"config": {"seed": 1}, "data_fingerprint": "d", "versions": {}, "total_steps": total}
        return self.write("config.json", json.dumps(record))

    def write(self, name, text):
        """One file."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return self

    def trained(self, steps, *, every=1.0, ago=0.0, **values):
        """Lines of that many updates, so many seconds apart, the last some seconds ago."""
        now = time.time() - ago
        lines = [
            {"step": step, "lr": 1e-3, "loss": 3.0 - step / 100, "sparsity": step / 200, "tokens_per_second": 1000.0}
            | {"time": now - (steps - 1 - step) * every}
            | values
            for step in range(steps)
        ]
        return self.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))

    def said(self, *records, ago=0.0):
        """Lines of log.txt: (logger, message)."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - ago))
        text = "".join(f"{stamp},123 DEBUG {logger}: {message}\n" for logger, message in records)
        return self.write("log.txt", text)

    def saved(self, step):
        """A checkpoint's name, as the pointer has it."""
        return self.write("checkpoints/latest", f"step-{step:08}\n")

    def finished(self):
        """A result, and a whole model."""
        self.write("model/recipe.json", json.dumps({"files": ["model.safetensors"]}))
        return self.write("model/model.safetensors", "weights").write("result.json", "{}")

    def taken_by(self, host, *, ago=0.0):
        """A lock that was not given back, and that nobody holds here."""
        self.write("lock", f"host {host}, pid 1\n")
        os.utime(self.path / "lock", (time.time() - ago,) * 2)
        return self

    def given_back(self):
        """The lock of a run that ended in order."""
        return self.write("lock", "")


@pytest.fixture
def make(tmp_path):
    """make("a/b") -> an empty run folder below `tmp_path / "runs"`."""
    return lambda name: Folder(tmp_path / "runs" / name)


@pytest.fixture
def hold():
    """Hold the lock of a folder until the test ends."""
    held = []

    def begin(folder):
        owner = RunFolder(folder.path)
        owner.acquire()
        held.append(owner)

    yield begin
    for owner in held:
        owner.release()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a config and its data."""
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "data", rows=30)
    (tmp_path / "mine.json").write_text(json.dumps(TINY))
    return tmp_path
