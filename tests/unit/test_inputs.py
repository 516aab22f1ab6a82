"""What is said about a run before torch is imported."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.corpora import write_corpus
from tests.processes import CHECKOUT, environment

LIGHT = ("ofa.config", "ofa.inputs", "ofa.plan", "ofa.files")
SMALL = ("--set", "data.path=data", "--set", "data.sequence_length=64", "--set", "evaluate.rows=null")
HEAVY = ("torch", "transformers", "deepspeed", "datasets", "webdataset")


def test_inputs_are_checked_without_what_takes_seconds_to_import():
    program = f"import sys, {', '.join(LIGHT)}; print([name for name in {HEAVY} if name in sys.modules])"
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, env=environment(), capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("delay", [1.5, 4.0])
def test_an_interrupt_before_the_first_step_shows_no_traceback_and_leaves_nothing(tmp_path, delay):
    """At whatever import or check it hits."""
    write_corpus(tmp_path / "data", rows=120)
    command = [sys.executable, str(CHECKOUT / "launch" / "pretrain.py"), "--config", "tiny/teacher.json", *SMALL]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    time.sleep(delay)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_ranks_of_one_machine_say_what_is_wrong_once(tmp_path):
    """And with the number of ranks that the launcher gives."""
    said = []
    for rank in range(2):
        command = [sys.executable, str(CHECKOUT / "launch" / "pretrain.py"), "--config", "tiny/teacher.json"]
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "3"}
        done = subprocess.run(command, cwd=tmp_path, env=environment(**ranks), capture_output=True, text=True)
        assert done.returncode == 1
        said.append(done.stderr)
    assert "micro_size 16 * world size 3 = 48" in said[0] and said[1] == ""


def test_the_first_rank_says_that_it_starts_before_it_imports_what_takes_seconds(tmp_path):
    """Here torch is a file that ends the process."""
    write_corpus(tmp_path / "data", rows=120)
    (tmp_path / "libraries").mkdir()
    (tmp_path / "libraries" / "torch.py").write_text("raise SystemExit(3)\n")
    path = f"{tmp_path / 'libraries'}:{CHECKOUT}"
    command = [sys.executable, str(CHECKOUT / "launch" / "pretrain.py"), "--config", "tiny/teacher.json", *SMALL]
    for rank, said in (("0", "starting: loading torch and transformers\n"), ("1", "")):
        ranks = environment(RANK=rank, LOCAL_RANK=rank, PYTHONPATH=path)
        done = subprocess.run(command, cwd=tmp_path, env=ranks, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (3, said)
