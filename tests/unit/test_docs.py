"""What docs/cluster.md shows is what the commands print."""

import re
import shlex

import pytest

from ofa.cluster.row import State
from ofa.config import FinetuneConfig, RunConfig, load
from ofa.data.tasks import TASKS
from tests.commands import command
from tests.processes import CHECKOUT

PAGE = (CHECKOUT / "docs" / "cluster.md").read_text()


def test_the_table_of_costs_is_what_its_command_prints():
    (typed,) = re.findall(r"^    python launch/(cost\.py .*)$", PAGE, re.MULTILINE)
    answer = command(*shlex.split(typed), cwd=CHECKOUT)
    assert answer.status == 0, answer.err
    assert answer.out in PAGE, f"put this in place of the old table:\n{answer.out}"


def test_every_state_is_explained():
    section = PAGE.partition("## Seeing what runs do")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z, ]+) \|", section, re.MULTILINE)
    explained = {name.strip() for row in rows for name in row.split(",")}
    assert explained - {"state"} == {str(state) for state in State}


@pytest.fixture
def gpus(monkeypatch):
    """As many as the page speaks of, for a machine that has none: nothing runs there."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(32))))


def test_the_chain_of_jobs_is_one(tmp_path, gpus):
    """Every link is checked as before a submission, but for what those before it make."""
    (typed,) = re.findall(r"^    python launch/(submit\.py .*data_prep (?:.*\\\n)+.*)$", PAGE, re.MULTILINE)
    on_one = re.sub(
        r"--nodes (\d+) --gpus-per-node (\d+)", lambda of: f"--gpus-per-node {int(of[1]) * int(of[2])}", typed
    )  # which is as many ranks, without Slurm
    name, *arguments = shlex.split(on_one.replace("\\\n", " "))
    answer = command(name, "--cluster", "local", "--dry-run", *arguments, cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert len(answer.out.splitlines()) == arguments.count("--then") + 1 + 2, "three seeds in one link"


def test_the_first_command_has_nothing_to_wait_for(tmp_path, gpus):
    """In a clone without data."""
    (typed,) = re.findall(r"^    python launch/(submit\.py .*--dry-run (?:.*\\\n)*.*?)(?: +#.*)?$", PAGE, re.MULTILINE)
    name, *arguments = shlex.split(typed.replace("\\\n", " "))
    answer = command(name, "--cluster", "local", *arguments, cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert not list(tmp_path.iterdir())


def test_what_jobs_need_without_a_network_is_all_fetched_before():
    """Each dataset and model of the hub that the recipes of the chain name."""
    fetched = PAGE.partition("Where compute nodes have no network")[2].partition("One job")[0]
    task = load(FinetuneConfig, "downstream/mrpc.json").task.name
    hub = TASKS[task].hub
    assert hub is not None and f"load_dataset('{hub.dataset}', '{task}')" in fetched
    assert f"hf download {load(RunConfig, 'teacher.json').model.init}" in fetched
    assert "python -m data_prep --config data/wikipedia_20231101.json" in fetched
