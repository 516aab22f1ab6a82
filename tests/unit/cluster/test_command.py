"""Which script a job runs, where, and whether it would start."""

import json
import re
from pathlib import Path

import pytest

from ofa.cluster.check import check_all
from ofa.cluster.command import expanded, read_call
from ofa.cluster.division import check_division
from ofa.cluster.resources import Resources
from ofa.cluster.submit import Link, check_chain
from ofa.cluster.verdict import Limits
from ofa.config import CHECKOUT, CONFIGS, ConfigError
from ofa.sections.nodes import node_list, node_range
from ofa.slurm.errors import SubmitError
from tests.e2e.conftest import TINY


def check(call, ranks, made=()):
    """Of one call."""
    return check_all([call], ranks, made)


TINY_CALL = ("launch/pretrain.py", "--config", "tiny/ofa_90.json")


def test_a_call_runs_the_code_that_it_is_given(place):
    """Configs of the checkout come from the copy too, others from where they are."""
    code = Path("/jobs/code/abc")
    call = read_call([*TINY_CALL, "--set", "seed=3", "--resume", "never"])
    assert (call.script, call.run_dir, call.name) == ("pretrain", Path("runs/tiny/ofa_90"), "pretrain:ofa_90")
    program = call.program(code)
    assert program[:5] == (
        "/jobs/code/abc/launch/pretrain.py",
        *("--config", "/jobs/code/abc/configs/tiny/ofa_90.json"),
        *("--run-dir", "runs/tiny/ofa_90"),
    )
    assert sorted(program[5:]) == ["--resume", "--set", "never", "seed=3"]
    own = read_call(["pretrain", "--config", "mine.json", "--run-dir", "here"])
    assert own.program(code)[1:] == ("--config", str(place / "mine.json"), "--run-dir", "here")
    data = read_call(["data_prep", "--config", "tiny/docstrings.json", "--workers", "3"])
    assert data.program(code)[:2] == ("-m", "data_prep") and not data.trains
    assert read_call(["launch/report.py", "runs/x"]).program(code) == ("/jobs/code/abc/launch/report.py", "runs/x")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no script to run"),
        (["launch/pretrian.py", "--config", "mine.json"], "did you mean pretrain?"),
        (["launch/verify.py", "--help"], r"its help is no job: python launch/verify.py --help"),
        (["data_prep", "-h"], "python -m data_prep --help"),
        (["launch/submit.py"], "no script that can be submitted"),
        (["launch/pretrain.py"], "launch/pretrain.py needs --config FILE"),
        (["pretrain.py", "--config", "mine.json"], "only scripts of"),
    ],
)
def test_what_is_no_call_is_refused(place, words, said):
    (place / "pretrain.py").touch()
    with pytest.raises(SubmitError, match=said):
        read_call(words)


def test_a_config_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"tiny/ofa_9.json not found.*did you mean tiny/ofa_90.json"):
        read_call(["launch/pretrain.py", "--config", "tiny/ofa_9.json"])


def test_an_array_has_a_folder_for_every_combination():
    calls = expanded(read_call(TINY_CALL), ["seed=1,2", "optimizer.lr=1e-3,5e-4"])
    assert [call.run_dir.name for call in calls] == [
        f"ofa_90-seed={seed}-optimizer.lr={lr}" for seed in (1, 2) for lr in ("1e-3", "5e-4")
    ]
    assert calls[1].arguments == ("--set", "seed=1", "--set", "optimizer.lr=5e-4")
    paths = expanded(read_call(TINY_CALL), ["model.init=runs/a/model,runs/b/model"])
    assert [call.run_dir.name for call in paths] == [f"ofa_90-model.init=runs_{name}_model" for name in "ab"]


@pytest.mark.parametrize("is_first", [True, False])
def test_configs_and_values_are_both_in_the_names_of_folders_in_whichever_order(is_first):
    axes = ["config=tiny/ofa_90.json,tiny/imp_90.json", "seed=1,2"]
    calls = expanded(read_call(TINY_CALL), axes if is_first else axes[::-1])
    names = [f"runs/tiny/{config}-seed={seed}" for config in ("ofa_90", "imp_90") for seed in (1, 2)]
    assert [str(call.run_dir) for call in calls] == names


def test_an_array_over_configs_has_their_folders():
    calls = expanded(read_call(TINY_CALL), ["config=tiny/ofa_90.json,tiny/imp_90.json", "seed=1"])
    assert [str(call.run_dir) for call in calls] == ["runs/tiny/ofa_90-seed=1", "runs/tiny/imp_90-seed=1"]
    assert [call.config for call in calls] == ["tiny/ofa_90.json", "tiny/imp_90.json"]
    named = expanded(read_call([*TINY_CALL, "--run-dir", "x/y"]), ["config=tiny/ofa_90.json,tiny/imp_90.json"])
    assert [str(call.run_dir) for call in named] == ["x/y-ofa_90", "x/y-imp_90"]


@pytest.mark.parametrize("each", ["seed", "seed=", "=1", "seed=1,,2"])
def test_an_array_without_values_is_refused(each):
    with pytest.raises(SubmitError, match="expected KEY=VALUE,VALUE"):
        expanded(read_call(TINY_CALL), [each])


def test_a_value_that_stands_twice_in_an_array_is_refused():
    with pytest.raises(SubmitError, match=r"--each seed=1,2,1: 1 stands there twice"):
        expanded(read_call(TINY_CALL), ["seed=1,2,1"])


def test_an_array_of_what_has_no_run_folder_is_refused():
    with pytest.raises(SubmitError, match="data_prep has no run folder"):
        expanded(read_call(["data_prep", "--config", "tiny/docstrings.json"]), ["sequence_length=1,2"])


def test_a_call_that_would_start_is_not_refused(place):
    check(read_call(["pretrain", "--config", "mine.json"]), [1, 2])
    assert not (place / "runs").exists(), "nothing was begun"


@pytest.mark.parametrize(
    ("words", "ranks", "said"),
    [
        (("--set", "optimizer.lr=-1"), [2], "optimizer.lr"),
        (("--set", "optimiser.lr=1"), [2], "did you mean optimizer"),
        (("--set", "data.path=nowhere"), [2], "nowhere"),
        (("--set", "model.init=runs/none/model"), [2], "runs/none/model"),
        (("--lr", "3"), [2], "unrecognized arguments: --lr 3; options of submit.py stand before the script"),
        ((), [2, 3], "on 3 ranks: batch.global_size 8 is not a multiple"),
        (("--run-dir", "mine.json/run"), [2], "run folder mine.json/run cannot be written"),
        (("--run-dir", "/proc/run"), [2], "run folder /proc/run cannot be written"),
    ],
)
def test_a_call_that_would_not_start_is_refused_in_the_scripts_words(place, words, ranks, said):
    with pytest.raises(SubmitError) as caught:
        check(read_call(["pretrain", "--config", "mine.json", *words]), ranks)
    assert said in str(caught.value)
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("nodes", "each", "values", "said"),
    [
        ((1, 4), 1, (), "on 3 ranks (3 nodes): batch.global_size 8 is not.*; of 1-4 nodes 1, 2 can: --nodes 1-2$"),
        ((1, 16), 1, ("micro_size=1",), "on 3 ranks .*; of 1-16 nodes 1, 2, 4, 8 can: --nodes 1,2,4,8$"),
        ((1, 3), 2, ("micro_size=1", "global_size=256"), "on 6 ranks .*nodes 1, 2 can: --nodes 1-2$"),
        ((3, 3), 1, (), "on 3 ranks .3 nodes.: batch.global_size 8 is not a multiple"),
        ((5, 7), 8, (), "on 40 ranks .5 nodes.: batch.global_size 8 is not a multiple"),
    ],
)
def test_a_range_of_nodes_of_which_some_could_not_share_a_step_is_refused_with_those_that_can(
    place, nodes, each, values, said
):
    """However long it is: the run would fail on the day when Slurm has that many."""
    call = read_call(["pretrain", "--config", "mine.json", *(f"--set=batch.{value}" for value in values)])
    with pytest.raises(SubmitError, match=said.replace("(3 nodes)", r"\(3 nodes\)")):
        check_division(call, Resources(nodes=nodes, tasks_per_node=each))


def test_ranges_that_can_and_what_has_other_mistakes_are_left_to_the_script(place):
    check_division(read_call(["pretrain", "--config", "mine.json"]), Resources(nodes=(1, 2)))
    many = Resources(nodes=(1, 20))
    one = read_call(["pretrain", "--config", "mine.json", "--set", "optimizer.lr=-1"])
    check_division(one, many)
    check_division(read_call(["data_prep", "--config", "tiny/docstrings.json"]), many)
    check_division(read_call(["pretrain", "--config", "tiny/docstrings.json"]), many)


def test_the_ranges_of_the_documents_work():
    """Of nodes with eight GPUs."""
    text = (CHECKOUT / "docs" / "cluster.md").read_text()
    ranges = re.findall(r"`--nodes ([\d,-]+)`", text)
    assert len(ranges) > 1 and "launch/pretrain.py --config ofa_90.json --set batch.micro_size=8" in text
    for one in ranges:
        call = read_call(["pretrain", "--config", "ofa_90.json", "--set", "batch.micro_size=8"])
        check_division(call, Resources(nodes=node_range(one), only=node_list(one), gpus_per_node=8))


MADE = [Path("runs", "none"), Path("data", "later")]
"""What jobs before it make."""


@pytest.mark.parametrize("values", [("model.init=runs/none/model",), ("data.path=data/later",)])
def test_what_others_make_is_not_looked_for_yet_but_all_else_is(place, values):
    call = read_call(["pretrain", "--config", "mine.json", *(part for one in values for part in ("--set", one))])
    check(call, [2], MADE)
    with pytest.raises(SubmitError, match=values[0].partition("=")[2]):
        check(call, [2], [Path("runs", "non")])
    with pytest.raises(SubmitError, match="not a multiple"):
        check(call, [3], MADE)


def test_a_task_that_nobody_makes_is_missed_before_its_base_is_trained(place):
    task = {"name": "text_classification", "path": "tasks/pairs", "text_column": "first", "label_column": "label"}
    values = {"model": {"init": "runs/none/model"}, "task": task, "schedule": {"total_steps": 8}}
    (place / "tuned.json").write_text(json.dumps({**values, "batch": TINY["batch"], "optimizer": TINY["optimizer"]}))
    call = read_call(["finetune", "--config", "tuned.json"])
    with pytest.raises(SubmitError, match="task.path: expected a folder"):
        check(call, [1], MADE)
    check(call, [1], [*MADE, Path("tasks")])


def test_a_sweep_of_models_that_nobody_makes_is_refused(place):
    (place / "sweep.json").write_text(
        json.dumps(
            {"script": "pretrain", "config": "mine.json", "grid": {"model.init": ["runs/none/model"], "seed": [1, 2]}}
        )
    )
    call = read_call(["sweep", "--config", "sweep.json"])
    check(call, [1], MADE)
    with pytest.raises(SubmitError, match="cell init=.*model folder runs/none/model not found"):
        check(call, [1])


@pytest.mark.parametrize(
    ("words", "folders"),
    [
        (["pretrain", "--config", "mine.json"], ["runs/mine"]),
        (["pretrain", "--config", "mine.json", "--run-dir", "x"], ["x"]),
        (["data_prep", "--config", "tiny/docstrings.json"], ["data/docstrings"]),
        (["data_prep", "--config", "tiny/docstrings.json", "--output=there"], ["there"]),
        (["export", "runs/none"], ["runs/none/model"]),
        (["export", "runs/none/model", "--format", "onnx"], ["runs/none/onnx"]),
        (["export", "runs/none", "--output", "there"], ["there"]),
        (["export", "--from-reference", "runs/none", "--output", "there"], ["there"]),
        (["evaluate", "runs/none", "--task", "mrpc", "--predictions", "p"], ["p"]),
        (["verify", "runs/none", "--expect-sparsity", "0.9"], []),
        (["benchmark", "a=runs/none", "--batch", "1", "8", "--output", "o"], ["o"]),
    ],
)
def test_what_a_call_makes(place, words, folders):
    assert check(read_call(words), [1], MADE) == [Path(folder) for folder in folders]


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["report", "runs/b"], "runs/b"),
        (["verify", "runs/none/model", "--same-zeros-as", "runs/b/model"], "runs/b/model"),
        (["evaluate", "runs/b/model", "--task", "mrpc"], "runs/b/model"),
        (["evaluate", "bert-base-uncased", "--data", "data/b"], "data/b"),
        (["predict", "runs/b", "--text", "x"], "runs/b"),
        (["export", "runs/b", "--format", "onnx"], "runs/b"),
        (["export", "runs/none", "--checkpoint", "runs/b/checkpoints/step-1"], "runs/b/checkpoints/step-1"),
        (["benchmark", "a=runs/none", "b=runs/b/onnx"], "runs/b/onnx"),
    ],
)
def test_a_folder_that_is_not_there_and_that_nobody_makes_is_refused(place, words, missing):
    with pytest.raises(SubmitError) as caught:
        check(read_call(words), [1], MADE)
    said = f"{missing}: no such folder; expected one that is there, or that a job before this one makes"
    assert str(caught.value) == f"{words[0]}: {said}"
    (place / missing).mkdir(parents=True)
    check(read_call(words), [1], MADE)


def test_what_a_shipped_config_makes_is_named(place):
    with pytest.raises(SubmitError, match="no such folder; make it with: .*--config tiny/ofa_90.json"):
        check(read_call(["report", "runs/tiny/ofa_90"]), [1])


def test_a_hub_id_is_no_folder(place):
    check(read_call(["evaluate", "bert-base-uncased", "--task", "mrpc"]), [1])


@pytest.mark.parametrize(("read", "missing"), [("runs/mine", None), ("there/x", None), ("runs/min", "runs/min")])
def test_only_what_an_earlier_job_of_the_chain_makes_may_be_missing(place, read, missing):
    """And no other word of its command."""
    words = (["pretrain", "--config", "mine.json"], ["export", "runs/mine", "--output", "there"], ["report", read])
    chain = [Link((read_call(one),), Resources(), Limits(), 1) for one in words]
    if missing is None:
        check_chain(chain, slurm=False)
        return
    with pytest.raises(SubmitError, match="report: runs/min: no such folder"):
        check_chain(chain, slurm=False)
    backwards = [chain[2], chain[0]]
    with pytest.raises(SubmitError, match="no such folder"):
        check_chain(backwards, slurm=False)


def test_a_run_that_has_begun_with_another_config_is_refused(place):
    (place / "runs" / "mine").mkdir(parents=True)
    record = {"config": {**TINY, "seed": 5}, "data_fingerprint": "", "versions": {}}
    (place / "runs" / "mine" / "config.json").write_text(json.dumps(record))
    with pytest.raises(SubmitError, match=r"started with another config: seed \(5 -> "):
        check(read_call(["pretrain", "--config", "mine.json"]), [1])


def test_configs_of_other_scripts_are_refused(place):
    assert (CONFIGS / "tiny" / "docstrings.json").is_file()
    with pytest.raises(SubmitError, match="prepares data"):
        check(read_call(["pretrain", "--config", "tiny/docstrings.json"]), [1])
    for script in ("data_prep", "sweep"):
        with pytest.raises(SubmitError, match="pre-trains a model"):
            check(read_call([script, "--config", "tiny/ofa_90.json"]), [1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data_prep", "--config", "tiny/docstrings.json", "--wrokers", "3"], "unrecognized arguments: --wrokers"),
        (["data_prep", "--config", "tiny/docstrings.json", "--set", "mode=x"], "mode"),
        (["sweep", "--config", "tiny/sweep.json", "--onyl", "x"], "unrecognized arguments: --onyl"),
        (["launch/verify.py", "runs/a", "--expect", "0.9", "0.8"], "unrecognized arguments: 0.8"),
        (["launch/report.py"], "required: DIR"),
        (["launch/export.py", "runs/a", "--format", "onyx"], "onyx"),
    ],
)
def test_arguments_of_scripts_that_do_not_train_are_read_before_they_wait_for_days(place, words, said):
    with pytest.raises(SubmitError, match=said):
        check(read_call(words), [1])


@pytest.mark.parametrize("words", [["verify", "runs/none"], ["data_prep", "--config", "tiny/docstrings.json"]])
def test_nothing_of_theirs_is_done_by_that(place, words):
    before = sorted(place.rglob("*"))
    check(read_call(words), [1], MADE)
    assert sorted(place.rglob("*")) == before


def test_a_check_that_ends_without_a_word_is_an_error(place, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(SubmitError, match="status 1 and no word"):
        check(read_call(["pretrain", "--config", "mine.json"]), [1])


def test_a_run_that_is_there_is_not_continued_by_who_says_never(place):
    (place / "runs" / "mine").mkdir(parents=True)
    record = {"config": TINY, "data_fingerprint": "", "versions": {}}
    (place / "runs" / "mine" / "config.json").write_text(json.dumps(record))
    with pytest.raises(SubmitError, match="holds a run and --resume is never"):
        check(read_call(["pretrain", "--config", "mine.json", "--resume", "never"]), [1])
