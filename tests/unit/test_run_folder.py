"""One owner of a run folder, one config in it."""

import os
import subprocess
import sys

import pytest

from ofa.config import RunConfig, load
from ofa.run_folder import RunFolder, RunFolderError, read_json
from tests.processes import environment

HOLDER = """
import sys, time
from pathlib import Path
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


def test_what_decides_the_result_may_not_change_and_the_rest_may(tmp_path):
    folder, config = RunFolder(tmp_path), load(RunConfig, "tiny/ofa_90.json")
    folder.record(config, "data", 1)
    folder.check(load(RunConfig, "tiny/ofa_90.json", ["log.every=1", "data.workers=0"]), "data")
    with pytest.raises(RunFolderError, match=r"optimizer.lr \(0.001 -> 0.002\)"):
        folder.check(load(RunConfig, "tiny/ofa_90.json", ["optimizer.lr=2e-3"]), "data")
    with pytest.raises(RunFolderError, match="started on other data"):
        folder.check(config, "other data")


def test_the_record_says_what_was_run_with_what(tmp_path):
    RunFolder(tmp_path).record(load(RunConfig, "tiny/ofa_90.json"), "data", 2)
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
