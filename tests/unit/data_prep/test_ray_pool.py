"""The work done by Ray on this machine. Ray is no dependency: without it only its absence is tried."""

import importlib.util
import json
import signal
import time
from pathlib import Path

import pytest

from data_prep.array import ClusterOptions
from data_prep.documents import DataPrepError
from data_prep.pipeline import prepare
from data_prep.ray_pool import RayPool

RAY = ClusterOptions(cluster="ray")
HAS_RAY = importlib.util.find_spec("ray") is not None
with_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install '.[ray]'")


def run(config, output):
    """Prepare by two tasks at a time."""
    return prepare(config, output, 2, lambda *_: None, RAY)


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_it_is_named(tools, text, tmp_path):
    with pytest.raises(DataPrepError, match=r"--cluster ray needs Ray on all nodes: pip install 'sparse-ofa\[ray\]'"):
        run(tools.config_for(text), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@with_ray
def test_tasks_of_ray_write_the_bytes_that_processes_write(tools, text, tmp_path):
    pytest.importorskip("datatrove")
    config = tools.config_for(text, clean={"near_duplicates": True})
    tools.run(config, tmp_path / "processes")
    run(config, tmp_path / "tasks")
    assert tools.sums(tmp_path / "tasks") == tools.sums(tmp_path / "processes")


@with_ray
def test_the_error_of_a_task_is_said(tools, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.jsonl").write_text(json.dumps({"id": 1, "words": "x"}) + "\n")
    with pytest.raises(DataPrepError, match="^[^ ]*a.jsonl, line 1: no text in field 'text'"):
        run(tools.config_for(tmp_path / "text"), tmp_path / "out")


def stamped(folder, number):
    """Notes its beginning and end; the first takes longest."""
    (folder / f"{number}.begin").touch()
    side_by_side = len(list(folder.glob("*.begin"))) - len(list(folder.glob("*.end")))
    time.sleep(1.0 if number == 0 else 0.2)
    (folder / f"{number}.end").touch()
    return number, side_by_side


@with_ray
def test_no_more_tasks_than_asked_for_run_side_by_side_and_signals_stay_ours(tmp_path):
    """On a machine that would have a place for more of them."""
    before = signal.getsignal(signal.SIGTERM)
    with RayPool(4) as pool:
        assert signal.getsignal(signal.SIGTERM) is before
        pool._at_a_time = 2
        found = list(pool.map(stamped, ((Path(tmp_path), number) for number in range(8))))
    assert [number for number, _ in found] == list(range(8))
    assert max(side_by_side for _, side_by_side in found) == 2
