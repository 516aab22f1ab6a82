"""How good, how fast and how large finished task models are, side by side on this machine's CPU.

python launch/benchmark.py dense=runs/dense sparse=runs/sparse int8=runs/qat/onnx cofi=runs/cofi/onnx --dense dense
python launch/benchmark.py dense=runs/dense int8=runs/qat --dense dense --batch 1 8 32 --length 128 384 --threads 1 4 \\
    --task sst2 --path glue/SST-2 --output results/sst2

Each model is a folder (torch) or one that launch/export.py wrote (ONNX Runtime, OpenVINO); a run folder stands for its
model and all its exports. A name may stand for one model on several runtimes. Speed-ups need the dense model on torch
and on the same runtime: --dense says which it is, and without both none is printed.
"""

import argparse
from pathlib import Path

import common


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common.launcher_arguments()],
    )
    several = {"type": common.positive, "nargs": "+", "metavar": "N"}
    parser.add_argument("models", nargs="+", metavar="[NAME=]FOLDER", help="run, model or exported folders")
    parser.add_argument("--dense", metavar="NAME", help="the dense fp32 model, over which speed-ups are")
    parser.add_argument("--batch", default=[1, 8, 32], help="rows of one forward (default: 1 8 32)", **several)
    parser.add_argument("--length", default=[128], help="tokens of a row (default: 128)", **several)
    parser.add_argument("--threads", default=[1], help="each measured by a process of its own (default: 1)", **several)
    parser.add_argument(
        "--rounds", type=common.positive, default=31, metavar="N", help="in which each is timed once (default: 31)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random rows (default: 0)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="benchmark.json, table.md and benchmark.png go here")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier benchmark wrote there")
    task = parser.add_argument_group("scores", "of the validation split, on each model's own runtime")
    common.task_arguments(
        task,
        task="default: the one that they were fine-tuned on",
        path="folder of its files (default: as when fine-tuned, if it is here)",
    )
    task.add_argument("--rows", type=common.positive, metavar="N", help="from the first (default: all)")
    found = parser.parse_args()
    if found.rounds < 2:
        parser.error("--rounds must be at least 2: noise is what differs between two")
    if found.seed < 0:
        parser.error("--seed must be at least 0")
    return found


def main() -> None:
    """Measure, write, print."""
    setting = Setting(
        *(tuple(dict.fromkeys(given)) for given in (OPTIONS.batch, OPTIONS.length, OPTIONS.threads)),
        rounds=OPTIONS.rounds,
        seed=OPTIONS.seed,
    )
    if OPTIONS.output is not None:
        check_output(OPTIONS.output, overwrite=OPTIONS.overwrite)
    asked = Asked(OPTIONS.task, OPTIONS.path, OPTIONS.rows, tuple(OPTIONS.overrides or ()))
    found = run_benchmark(OPTIONS.models, OPTIONS.dense, setting, asked)
    print(console(found))
    if OPTIONS.output is not None:
        print("written:", *write(OPTIONS.output, found))


if __name__ == "__main__":
    OPTIONS = arguments()
    common.only_first_rank()
    from ofa.models.place import named

    common.look(lambda: None, folders=[named(one)[1] for one in OPTIONS.models], writes=[OPTIONS.output])
    from ofa.benchmark.measure import Setting  # after the arguments: it takes seconds to import
    from ofa.benchmark.report import console
    from ofa.benchmark.run import check_output, run_benchmark, write
    from ofa.benchmark.scoring import Asked

    common.main_wrapper(main)
