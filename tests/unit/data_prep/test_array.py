"""The work done by jobs: submitit's local ones, which are processes of this machine."""

import json

import pytest

from data_prep.array import ClusterArray, ClusterOptions
from data_prep.documents import DataPrepError
from data_prep.pipeline import prepare

LOCAL = ClusterOptions(cluster="local", minutes=5)


def run(config, output, at_a_time=2):
    """Prepare by jobs."""
    return prepare(config, output, at_a_time, lambda *_: None, LOCAL)


def test_jobs_write_the_bytes_that_processes_write(tools, text, tmp_path):
    config = tools.config_for(text)
    tools.run(config, tmp_path / "processes")
    run(config, tmp_path / "jobs")
    assert tools.sums(tmp_path / "jobs") == tools.sums(tmp_path / "processes")


def test_only_what_is_missing_is_submitted(tools, text, tmp_path, monkeypatch):
    config = tools.config_for(text)
    asked: list[list[int]] = []
    is_broken = [False, True]
    original = ClusterArray._do

    def watch(self, slices):
        asked.append([len(calls) for _, calls in slices])
        if len(asked) <= len(is_broken) and is_broken[len(asked) - 1]:
            raise RuntimeError("stopped")
        original(self, slices)

    monkeypatch.setattr(ClusterArray, "_do", watch)
    with pytest.raises(RuntimeError, match="stopped"):
        run(config, tmp_path / "out", at_a_time=1)
    units, pieces = sum(asked[0]), sum(asked[1])
    assert units >= 2 and pieces >= 3 and max(map(len, asked)) <= 4
    done = sorted((tmp_path / "out" / ".work" / "extract").glob("*.json"))
    done[0].unlink()
    asked.clear()
    is_broken.clear()
    run(config, tmp_path / "out", at_a_time=1)
    assert asked[0] == [1] and sum(asked[1]) == pieces


def test_the_error_of_a_job_is_said_with_its_log(tools, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.jsonl").write_text(json.dumps({"id": 1, "words": "x"}) + "\n")
    config = tools.config_for(tmp_path / "text", source={"group_field": None})
    with pytest.raises(
        DataPrepError, match=r"a.jsonl, line 1: no text in field 'text'.*\(job .*, log .*run again"
    ) as error:
        run(config, tmp_path / "out", at_a_time=1)
    assert "Traceback" not in str(error.value)


def test_an_option_that_is_none_of_sbatch_is_refused(tmp_path):
    with pytest.raises(DataPrepError, match="--sbatch 9: expected an option of sbatch"):
        list(ClusterArray(1, tmp_path, ClusterOptions(other=("9",))).map(print, [()]))
