"""From text to the report, in one command: each job begins when what it needs was made by those before it."""

import json

import pytest

from ofa.cluster.attempts import read_attempts
from tests.e2e.conftest import SPARSE, TINY
from tests.slurm.test_submit import ended, log
from tests.tiny_tasks import COMMON, KINDS, write_pairs
from tests.unit.data_prep.conftest import write_text

pytestmark = pytest.mark.slurm

WORDS = 400

TEXT = {
    "source": {"kind": "text", "paths": ["text"], "group_field": "wing"},
    "tokenizer": {"vocab_size": WORDS},
    "sequence_length": 64,
    "validation_share": 0.2,
    "record_tokens": 2048,
    "shard_characters": 15_000,
}
TEACHER = {
    **TINY,
    "data": {**TINY["data"], "path": "data/text"},
    "model": {"architecture": {**TINY["model"]["architecture"], "vocab_size": WORDS}},
}
TUNED = {
    **COMMON,
    "model": {"init": "runs/student/model"},
    "lock": True,
    "task": {"max_length": 48, **KINDS["pairs"]},
}


@pytest.fixture
def place(tmp_path):
    """A folder with text, a task, and a config for each job; nothing is made yet."""
    write_text(tmp_path / "text")
    write_pairs(tmp_path / "tasks" / "pairs")
    for name, values in (("text", TEXT), ("teacher", TEACHER), ("student", SPARSE), ("tuned", TUNED)):
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    return tmp_path


def test_text_teacher_student_tasks_and_report_in_one_chain(cluster, submit, place):
    _, jobs = submit(
        *("data_prep", "--config", "text.json", "--workers", "1"),
        *("--then", "--nodes", "2", "launch/pretrain.py", "--config", "teacher.json"),
        *("--then", "launch/pretrain.py", "--config", "student.json"),
        *("--then", "--nodes", "1", "--each", "seed=1,2", "launch/finetune.py", "--config", "tuned.json"),
        *("--then", "launch/report.py", "runs/student"),
        cwd=place,
    )
    text, teacher, student, first, second, report = jobs
    assert first.removesuffix("_0") == second.removesuffix("_1")
    for job, before in ((teacher, text), (student, teacher), (first, student), (report, first.removesuffix("_0"))):
        assert cluster.job(job)["Dependency"].startswith(f"afterok:{before}")
    for job in jobs:
        ended(cluster, place, job)
    assert [read_attempts(place / "runs" / name)[0].ranks for name in ("teacher", "student")] == [2, 2]
    for seed in (1, 2):
        folder = place / "runs" / f"tuned-seed={seed}"
        assert json.loads((folder / "config.json").read_text())["config"]["seed"] == seed
        recipe = json.loads((folder / "model" / "recipe.json").read_text())
        assert recipe["parents"], "and comes from the student"
    assert "runs/student/report.html" in log(place, report)
    assert "</html>" in (place / "runs" / "student" / "report.html").read_text()
