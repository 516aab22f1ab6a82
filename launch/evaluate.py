"""Scores of any model folder: masked-LM loss and accuracy on prepared data, or a task's metrics on one of its splits.

    python launch/evaluate.py runs/tiny/ofa_90 --data data/docstrings
    python launch/evaluate.py bert-base-uncased --data data/wikipedia_20231101 --rows 8192 --json
    python launch/evaluate.py runs/tiny/finetune                          # the task that it was fine-tuned on
    python launch/evaluate.py runs/x/model --task mnli --path glue/MNLI --split validation_mismatched --json
    python launch/evaluate.py runs/x/model --task mrpc --path glue/MRPC --split test --predictions submission

Without --data, the model is one with a task head. What of the task is not given comes from the run folder that it
stands in, whose relative paths are those of the directory in which it was trained, or from its recipe.json, which says
no paths; without any path, the task's dataset is read from the hub. A split without labels gives predictions only.
"""

import argparse
import json
import os
from pathlib import Path

import common

OF_TASKS = ("task", "path", "split", "overrides", "predictions", "results")
"""Options that mean nothing to masked-LM scores."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common.launcher_arguments()],
    )
    parser.add_argument("model", metavar="MODEL", help="a run folder, a model folder or a hub id")
    parser.add_argument(
        "--micro-size", type=common.positive, default=32, metavar="B", help="rows of one forward (default 32)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    masked = parser.add_argument_group("masked-LM scores")
    masked.add_argument("--data", metavar="DIR", help="folder made by python -m data_prep")
    masked.add_argument(
        "--rows", type=common.positive, metavar="N", help="validation rows, from the first (default: all)"
    )
    task = parser.add_argument_group("scores of a task")
    common.task_arguments(
        task,
        task="mrpc, squad_v2, ... (default: the one that it was fine-tuned on)",
        path="folder of the task's files (default: as when fine-tuned, or hub)",
    )
    task.add_argument(
        "--split", metavar="SPLIT", help="validation (default), test, or what else the task has: validation_mismatched"
    )
    task.add_argument("--predictions", type=Path, metavar="DIR", help="write predictions below DIR/SPLIT")
    task.add_argument("--results", type=Path, metavar="FILE", help="append the scores to a results.jsonl")
    found = parser.parse_args()
    foreign = common.foreign_option(found, OF_TASKS) if found.data else None
    if foreign:
        parser.error(f"{foreign} is for the scores of a task, and --data for those of a masked LM: give one of them")
    if found.rows and not found.data:
        parser.error("--rows needs --data; rows of a task: --set task.validation_rows=N")
    return found


def show_masked_lm() -> None:
    """Score on prepared data and print."""
    row, units = evaluate_folder(OPTIONS.model, OPTIONS.data, rows=OPTIONS.rows, micro_size=OPTIONS.micro_size)
    if OPTIONS.json:
        print(json.dumps(row))
        return
    print(result_table({"rows": [row]}).rstrip())
    if units is not None:
        print(f"\n{units.in_words()}")


def show_task() -> None:
    """Score on a task and print."""
    evaluation = evaluate_model(
        OPTIONS.model,
        task=OPTIONS.task,
        path=OPTIONS.path,
        split=OPTIONS.split or "validation",
        overrides=OPTIONS.overrides or (),
        predictions=OPTIONS.predictions,
        results=OPTIONS.results,
        micro_size=OPTIONS.micro_size,
    )
    if OPTIONS.json:
        print(json.dumps({**evaluation.line, "predictions": [str(path) for path in evaluation.files]}))
        return
    print(evaluation_table(evaluation))
    if OPTIONS.results:
        print(f"results: {OPTIONS.results}")


def main() -> None:
    """Score, unless it is an export."""
    if is_export(Path(OPTIONS.model).expanduser()):
        raise ValueError(
            f"{OPTIONS.model} was exported to a runtime: python launch/benchmark.py {OPTIONS.model} --task TASK "
            "--path DIR scores it there; this command scores the model folder that it was made from"
        )
    (show_masked_lm if OPTIONS.data else show_task)()


if __name__ == "__main__":
    OPTIONS = arguments()
    common.only_first_rank()
    from ofa.models.place import check_there

    common.look(
        lambda: check_there(OPTIONS.model),
        models=[OPTIONS.model],
        folders=[OPTIONS.data],
        writes=[OPTIONS.predictions, OPTIONS.results],
    )
    if "WORLD_SIZE" in os.environ:
        os.environ["WORLD_SIZE"] = "1"  # the rank that stays works alone
    from ofa.downstream.evaluate_model import evaluate_model, evaluation_table  # after the arguments: it takes seconds
    from ofa.evaluate import evaluate_folder
    from ofa.runtimes.export_file import is_export
    from ofa.tables import result_table

    common.main_wrapper(main)
