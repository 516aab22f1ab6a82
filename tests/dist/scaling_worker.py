"""One rank of test_scaling: counts the operations and collectives of one update of a pruned run with a teacher, and
what its part of a validation looks at, as JSON.

Run with one argument per case: "STAGE MICRO"; data and teacher stand in the working directory.
"""

import json
import sys
from pathlib import Path

from torch.utils.flop_counter import FlopCounterMode

from ofa import dist
from ofa.assemble import PretrainingRun, assemble
from ofa.config import RunConfig, parse
from ofa.engine.process import start
from ofa.evaluate import masked_lm_score
from ofa.run_folder import RunFolder
from ofa.train import update
from tests.corpora import build_run_config
from tests.dist.collectives_worker import Payload
from tests.e2e.conftest import TINY
from tests.processes import end_rank

GLOBAL, ORDINARY = 8, 3
"""Rows of a global batch, and a step without a refresh."""


def config(stage: str, micro: str) -> RunConfig:
    """fp32, weights may return, every position distilled."""
    values = build_run_config(micro=int(micro), size=GLOBAL, kd="all", path="data").model_dump()
    values["model"] |= {**TINY["model"], "dropout": 0.0}
    values["teacher"] = {"init": "teacher"}
    values["objective"] |= {"ce_weight": 0.5, "kd_weight": 0.5}
    values["pruning"] = {"sparsity": 0.5, "ramp_end": 4, "end": 4, "frequency": 2}
    values["log"]["tensorboard"] = False
    values["evaluate"]["micro_size"] = 4
    whole = {"zero_optimization": {"stage3_param_persistence_threshold": 0}} if stage == "3" else {}
    values["engine"] |= {"threads": 1, "zero_stage": int(stage), "deepspeed": whole}
    return parse(RunConfig, values, origin="test")


def measure(case: str, number: int) -> dict:
    """FLOPs and collectives of an ordinary update, and the validation after it."""
    folder = RunFolder(Path(f"run-{number}").absolute())
    folder.path.mkdir(exist_ok=True)
    run = assemble(config(*case.split()), folder, None, name="scaling")
    found = {}
    for step in range(ORDINARY + 1):
        knobs, (totals, batches) = run.recipe.at(step), run.loader.global_batch(step)
        run.pruner.before_step(knobs)
        payload, flops = Payload(), FlopCounterMode(display=False)
        with payload, flops:
            update(run, knobs, totals, batches)
            run.pruner.after_step(run.recipe.at(step + 1))
        found = {"flops": flops.get_total_flops(), "collectives": dict(payload.seen), "predicted": totals.predicted}
    run.progress.stop()
    return {**found, **validation(run)}


def validation(run: PretrainingRun) -> dict:
    """The score, and which rows and how many predictions went into it on this rank."""
    rows, predicted = [], 0
    passed = run.validation()

    def look(module, inputs):
        rows.append(inputs[0].row_ids.tolist())
        nonlocal predicted
        predicted += len(inputs[0].predicted) if len(rows) <= passed.counted else 0

    handle = run.module.register_forward_pre_hook(look)
    score = masked_lm_score(run.module, passed)
    handle.remove()
    counted = [row for of_batch in rows[: passed.counted] for row in of_batch]
    return {"score": score, "rows": counted, "seen": predicted, "validated": passed.totals.predicted}


if __name__ == "__main__":
    start(config("1", "1"))
    reports = {case: measure(case, number) for number, case in enumerate(sys.argv[1:])}
    Path(f"rank-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
