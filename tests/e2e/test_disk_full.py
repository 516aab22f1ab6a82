"""A disk that fills up: the error names the folder, what was there stays whole, and with space the work goes on."""

import json
import os
import random
import shutil
import subprocess
import sys
import time

import pytest

from ofa.checkpoint import Checkpoints, check
from ofa.config import CheckpointConfig
from tests.commands import command, overrides, refused, tree
from tests.processes import finished, start_script

SIZE = 8 << 20
"""Bytes of the disk; a checkpoint of these runs has half a megabyte, a model a tenth."""


@pytest.fixture
def disk(project):
    """A small file system inside the project."""
    folder = project / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        folder.rmdir()
        pytest.skip(f"no small file system here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


def fill(disk, free):
    """Leave `free` bytes."""
    with (disk / "filler").open("wb") as file:
        file.write(b"\0" * (shutil.disk_usage(disk).free - free))
    return disk / "filler"


def test_a_run_that_does_not_fit_is_refused_before_it_begins(project, disk):
    fill(disk, 1 << 20)
    words = ["3 checkpoints of 0.4", "needed in disk/run", " MB free", "lower checkpoint.keep_last"]
    refused(project, "--config", "teacher.json", "--run-dir", "disk/run", words=words)


@pytest.mark.slow
@pytest.mark.parametrize("reached", ["metrics.jsonl", "checkpoints/latest"])
def test_a_disk_that_fills_up_while_training_costs_no_checkpoint(project, disk, reached):
    """OFA-21 on a full disk: torch fails while it writes the first checkpoint; later ones are not begun."""
    run = disk / "run"
    steps = overrides("schedule.total_steps=240", "checkpoint.every=40", "log.every=40")
    arguments = ("--config", "teacher.json", "--run-dir", "disk/run", *steps)
    process = start_script("pretrain.py", *arguments, cwd=project, output=project / "full.log")
    began = time.monotonic()
    while not (run / reached).is_file() and process.poll() is None and time.monotonic() - began < 120:
        time.sleep(0.002)
    filler = fill(disk, 200_000)
    assert process.wait(120) == 1
    text = (project / "full.log").read_text()
    (project / "full.log").unlink()
    errors = [line for line in text.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "Traceback" not in text and "Logging error" not in text, text
    assert "checkpoint of step" in errors[0] and "disk/run/checkpoints" in errors[0] and " MB " in errors[0]
    assert "free space and start the same command again" in errors[0]
    kept = sorted((run / "checkpoints").glob("step-*"))
    assert bool(kept) == (reached == "checkpoints/latest")
    for path in kept:
        assert check(path)
    assert not list(run.rglob(".writing-*"))
    assert Checkpoints(run / "checkpoints", CheckpointConfig()).latest() == (kept[-1] if kept else None)
    filler.unlink()
    assert command("pretrain.py", *arguments, cwd=project).status == 0
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0


def test_an_export_that_does_not_fit_leaves_the_earlier_one(project, disk):
    assert command("export.py", "runs/teacher", "--output", "disk/model", cwd=project).status == 0
    words = ["exported model", "MB needed in disk/model", "MB free", "choose another --output"]
    filler = fill(disk, 60_000)
    refused(project, "runs/teacher", "--output", "disk/model", words=words, script_name="export.py")
    refused(project, "runs/teacher", "--output", "disk/deep/model", words=words[:1], script_name="export.py")
    filler.unlink()
    weights = (disk / "model" / "model.safetensors").stat().st_size
    fill(disk, (weights // 4096 + 2) * 4096)  # they fit, what stands beside them does not
    words = ["exported model: no space left in disk", "MB that are free", "choose another --output"]
    refused(project, "runs/teacher", "--output", "disk/other", words=words, script_name="export.py")
    assert command("verify.py", "disk/model", cwd=project).status == 0


def test_data_preparation_on_a_full_disk_keeps_what_was_finished_and_goes_on(project, disk):
    (project / "text").mkdir()
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 8))) for _ in range(2000)]
    for number in range(24):
        text = ". ".join(" ".join(draw.choices(words, k=12)).capitalize() for _ in range(400))
        (project / "text" / f"{number}.txt").write_text(text)
    config = {
        "source": {"kind": "text", "paths": ["text"]},
        "tokenizer": {"vocab_size": 300},
        "sequence_length": 64,
        "validation_share": 0.2,
        "shard_characters": 100_000,
    }
    (project / "prepare.json").write_text(json.dumps(config))
    filler = fill(disk, 1_000_000)
    line = [sys.executable, "-m", "data_prep", "--config", "prepare.json", "--output", "disk/data", "--workers", "1"]
    done = finished(line, cwd=project, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: prepared data: no space left in disk/data") and "finished parts are kept" in error
    assert " MB that are free" in error and " MB are used there" in error
    assert [path.name for path in (disk / "data").iterdir()] == [".work"]
    kept = {name for name in tree(disk / "data" / ".work" / "extract") if not name.startswith(".")}
    assert kept
    filler.unlink()
    finished(line, cwd=project)
    assert command("verify.py", "disk/data", cwd=project).status == 0
    shutil.rmtree(project / "text")
