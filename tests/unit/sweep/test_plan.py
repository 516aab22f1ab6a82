"""A sweep's config becomes runs, each with its command and what it needs; what cannot be meant is refused."""

import json
from functools import partial

import pytest

from ofa.config import CHECKOUT, SweepConfig, load
from ofa.data.task_plan import total_steps
from ofa.downstream.cofi.stages import Stages
from ofa.sweep.cells import check, chosen
from ofa.sweep.plan import plan

TASKS = [{"name": "mrpc", "set": {"data.path": "glue/MRPC"}}, {"name": "rte", "set": {"data.path": "glue/RTE"}}]
DENSE, SPARSE = {"name": "dense"}, {"name": "sparse", "set": {"model.init": "{dense}/model"}}


def test_the_shipped_example_is_four_runs_of_the_tiny_recipe(tmp_path):
    cells = plan(load(SweepConfig, "tiny/sweep.json"), tmp_path)
    assert [cell.name for cell in cells] == [f"sparsity={s}-seed={n}" for s in (0.8, 0.9) for n in (1, 2)]
    configs = check(cells)
    assert [(c.pruning.sparsity, c.seed) for c in configs.values()] == [(0.8, 1), (0.8, 2), (0.9, 1), (0.9, 2)]
    command = cells[0].command("--time-limit", "9")
    assert command[1:4] == [str(CHECKOUT / "launch" / "pretrain.py"), "--config", "tiny/ofa_90.json"]
    run_dir = ["--run-dir", str(tmp_path / "sparsity=0.8-seed=1")]
    assert command[4:] == ["--set", "pruning.sparsity=0.8", "--set", "seed=1", *run_dir, "--time-limit", "9"]


def test_the_shipped_curve_has_stages_in_which_gates_can_follow(tmp_path):
    """A fresh checkout should see a curve, not what gates do that have no room."""
    cells = plan(load(SweepConfig, "tiny/cofi_curve.json"), tmp_path)
    assert [cell.name for cell in cells] == [
        f"{k}-sparsity={s}" for k in ("cofi", "magnitude") for s in (0.5, 0.7, 0.9)
    ]
    for config in check(cells).values():
        steps = partial(total_steps, config.task.train_rows, config.batch.global_size)
        stages = Stages.of(config, steps)
        assert stages.ramp_end - stages.begin >= 12 / config.structure.lr and stages.total <= 500


def test_every_cell_is_multiplied_by_the_grid(planned):
    cells = planned(cells=[DENSE, {"name": "other", "config": "ofa_90.json"}], grid={"task": TASKS, "seed": [1, 2]})
    assert list(cells) == [f"{k}-{t}-seed={n}" for k in ("dense", "other") for t in ("mrpc", "rte") for n in (1, 2)]
    assert cells["dense-rte-seed=2"].at == {"task": "rte", "seed": "2"}
    assert cells["other-rte-seed=2"].config == "ofa_90.json"


def test_a_cell_sets_over_the_sweep_and_a_grid_value_too(planned):
    sweep = {"set": {"seed": 9, "log.every": 1, "batch": {"micro_size": 8}}, "grid": {"seed": [3]}}
    cell = planned(**sweep, cells=[{"name": "a", "set": {"log.every": 2}}])["a-seed=3"]
    assert cell.overrides == ("seed=3", "log.every=2", "batch.micro_size=8")


def test_a_cell_that_names_another_in_braces_needs_its_run_with_the_same_values(planned, tmp_path):
    cells = planned(cells=[SPARSE, DENSE], grid={"task": TASKS, "seed": [1, 2]})
    cell = cells["sparse-rte-seed=2"]
    assert cell.needs == ("dense-rte-seed=2",)
    assert cell.overrides[0] == f"model.init={tmp_path}/s/dense-rte-seed=2/model"
    assert list(cells).index("dense-rte-seed=2") < list(cells).index("sparse-mrpc-seed=1")


def test_needs_without_braces_are_all_runs_that_agree_on_shared_keys(planned):
    kinds = [DENSE, {"name": "own", "needs": ["dense"], "grid": {"seed": None}}]
    cells = planned(cells=kinds, grid={"task": TASKS, "seed": [1, 2]})
    assert cells["own-mrpc"].needs == ("dense-mrpc-seed=1", "dense-mrpc-seed=2")


def test_a_teacher_that_is_trained_once_serves_every_seed(planned, tmp_path):
    kinds = [{**DENSE, "grid": {"seed": None}}, SPARSE]
    cells = planned(cells=kinds, grid={"task": TASKS, "seed": [1, 2]})
    assert cells["dense-mrpc"].at == {"task": "mrpc"}
    for seed in "12":
        assert cells[f"sparse-mrpc-seed={seed}"].overrides[0] == f"model.init={tmp_path}/s/dense-mrpc/model"


def test_grid_keys_are_placeholders_too(planned):
    cells = planned(set={"model.init": "models/{task}-{seed}"}, grid={"task": TASKS, "seed": [1]})
    assert cells["rte-seed=1"].overrides[0] == "model.init=models/rte-1"


REFUSED = {
    "nothing would be run": {},
    "two cells are called dense": {"cells": [DENSE, DENSE]},
    "letters, digits and ._+=-": {"cells": [{"name": "../up"}]},
    "dense needs sparce, which is no cell; did you mean sparse?": {
        "cells": [{"name": "dense", "needs": ["sparce"]}, {"name": "sparse"}]
    },
    "a needs b needs a": {"cells": [{"name": "a", "needs": ["b"]}, {"name": "b", "needs": ["a"]}]},
    "cell seed=1: {tusk} is neither a grid key of it nor a cell; did you mean task?": {
        "set": {"model.init": "{tusk}"},
        "grid": {"task": TASKS, "seed": [1]},
    },
    "{} is neither": {"set": {"model.init": "{}"}, "grid": {"seed": [1]}},
    "could be any of dense-seed=1, dense-seed=2": {
        "cells": [DENSE, {**SPARSE, "grid": {"seed": None}}],
        "grid": {"seed": [1, 2]},
    },
    "sparse-seed=2 needs a run of dense": {
        "cells": [{**DENSE, "grid": {"seed": [1]}}, SPARSE],
        "grid": {"seed": [1, 2]},
    },
    "grid key seed sets seed and cell a sets seed": {
        "cells": [{"name": "a", "set": {"seed": 1}}],
        "grid": {"seed": [1]},
    },
    "cell a sets teacher: only one": {
        "cells": [{"name": "a", "set": {"teacher": None}}],
        "grid": {"teacher.init": ["x"]},
    },
    "over: sede is no grid key; did you mean seed?": {"over": ["sede"], "grid": {"seed": [1]}},
    "panels: task is no grid key": {"panels": "task", "grid": {"seed": [1]}},
    "seed stands in over and in panels": {"panels": "seed", "grid": {"seed": [1]}},
    "is the name of a cell and a grid key": {"cells": [{"name": "seed"}], "grid": {"seed": [1]}},
    "two runs would be called a-b-c": {
        "cells": [{"name": "a"}, {"name": "a-b", "grid": {"x": None}}],
        "grid": {"x": [{"name": "b", "set": {}}], "y": [{"name": "c", "set": {}}]},
    },
    "a run would be called jobs": {"cells": [{"name": "jobs"}]},
    "a run would be called xxxx": {"cells": [{"name": "x" * 201}]},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_meant_is_refused(planned, words):
    with pytest.raises(ValueError) as error:
        planned(**REFUSED[words])
    assert words.replace("cell seed=1: {tusk}", "{tusk}") in str(error.value)


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ({"grid": {"sede": [1]}}, ["cell sede=1:", "unknown key sede; did you mean seed?"]),
        ({"set": {"optimizer.lrr": 1}, "grid": {"seed": [1]}}, ["cell seed=1:", "unknown key optimizer.lrr"]),
        ({"grid": {"pruning.sparsity": [0.8, 90]}}, ["cell sparsity=90:", "pruning.sparsity", "90 % is 0.9"]),
        (
            {"cells": [{"name": "a"}, {"name": "b", "config": "nowhere.json"}]},
            ["cell b: config nowhere.json not found"],
        ),
        ({"config": "tiny/sweep.json", "grid": {"seed": [1]}}, ["cell seed=1:", "describes a sweep"]),
    ],
)
def test_a_config_that_a_run_would_refuse_is_refused_before_the_first(planned, sweep, words):
    with pytest.raises(ValueError) as error:
        check(list(planned(**sweep).values()))
    assert [word for word in words if word not in str(error.value)] == []


def test_only_takes_a_pattern_and_what_is_needed_must_be_done_or_taken(planned):
    cells = list(planned(cells=[DENSE, SPARSE], grid={"seed": [1, 2]}).values())
    assert [cell.name for cell in chosen(cells, "*seed=2")] == ["dense-seed=2", "sparse-seed=2"]
    assert chosen(cells, None) == cells
    with pytest.raises(ValueError, match="sparse-seed=1 needs dense-seed=1, which is neither finished nor chosen"):
        chosen(cells, "sparse-*")
    with pytest.raises(ValueError, match="no cell is called so; there are dense-seed=1, "):
        chosen(cells, "nothing")
    for cell in cells[:2]:
        cell.folder.path.mkdir(parents=True)
        cell.folder.result.write_text("{}")
    assert len(chosen(cells, "sparse-*")) == 2


def test_a_record_of_another_config_is_refused(planned):
    cells = planned(grid={"seed": [1]})
    config = check(list(cells.values()))["seed=1"]
    folder = cells["seed=1"].folder
    folder.path.mkdir(parents=True)
    folder.config.write_text(json.dumps({"config": config.model_dump(mode="json")}))
    check(list(cells.values()))
    check(list(planned(grid={"seed": [1]}, set={"log.every": 3}).values()))
    with pytest.raises(ValueError, match=r"cell seed=1: .* another config: optimizer.lr \(0.001 -> 0.5\)"):
        check(list(planned(grid={"seed": [1]}, set={"optimizer.lr": 0.5}).values()))


def test_a_finetuning_sweep_is_checked_against_the_sections_of_finetuning(planned, tmp_path):
    """Three kinds of runs over tasks, seeds and rates; the teacher of a task and seed is the dense run of both."""
    base = {"model": {"init": "models/x"}, "batch": {"global_size": 8, "micro_size": 8}, "optimizer": {"lr": 1e-4}}
    (tmp_path / "base.json").write_text(json.dumps({**base, "task": {"name": "mrpc"}}))
    tasks = [{"name": name, "set": {"task": {"name": name, "path": f"glue/{name}"}}} for name in ("mrpc", "stsb")]
    sweep = {
        "script": "finetune",
        "config": str(tmp_path / "base.json"),
        "set": {"evaluate.every": 100},
        "cells": [
            {"name": "dense", "set": {"lock": False}},
            {"name": "sparse-kd", "set": {"model.init": "models/sparse", "teacher.init": "{dense}/model"}},
        ],
        "grid": {"task": tasks, "seed": [1, 2], "optimizer.lr": [1e-4, 2e-4]},
    }
    cells = planned(**sweep)
    configs = check(list(cells.values()))
    assert len(cells) == 16
    config = configs["sparse-kd-stsb-seed=2-lr=0.0002"]
    assert (config.task.name, config.seed, config.optimizer.lr, config.evaluate.every) == ("stsb", 2, 2e-4, 100)
    assert config.teacher.init == str(tmp_path / "s" / "dense-stsb-seed=2-lr=0.0002" / "model")
    assert config.lock and not configs["dense-stsb-seed=2-lr=0.0002"].lock
    sweep["cells"][1]["set"]["pruning.sparsity"] = 0.9
    with pytest.raises(ValueError, match="cell sparse-kd-mrpc-seed=1-lr=0.0001: .*pruning"):
        check(list(planned(**sweep).values()))
