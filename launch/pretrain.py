"""Pre-train a model: teacher preparation, sparse pre-training or one-shot pruning, as the config says.

deepspeed launch/pretrain.py --config ofa_90.json
torchrun --nproc_per_node 8 launch/pretrain.py --config ofa_90.json
python launch/pretrain.py --config tiny/ofa_90.json --set optimizer.lr=5e-4
python launch/pretrain.py --config ofa_90.json --plan            # the schedule as JSON lines; needs no data
python launch/pretrain.py --config ofa_90.json --plan --summary  # tokens, FLOPs, memory, disk, hours
"""

import argparse
import sys
from pathlib import Path

import common

from ofa import config, files, inputs, plan


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[common.run_arguments()]
    )
    parser.add_argument("--plan", action="store_true", help="print the schedule as JSON lines and stop")
    parser.add_argument(
        "--plan-every", type=common.positive, default=1, metavar="N", help="only every Nth step of the plan"
    )
    parser.add_argument("--summary", action="store_true", help="with --plan: what the run costs, instead")
    parser.add_argument("--tokens-per-second", type=float, metavar="RATE", help="with --summary: gives hours")
    parser.add_argument(
        "--ranks", type=common.positive, default=1, metavar="N", help="with --summary: ranks (default 1)"
    )
    options = parser.parse_args()
    common.check_made(parser, options)
    if (options.summary or options.tokens_per_second) and not options.plan:
        parser.error("--summary and --tokens-per-second belong to --plan")
    if options.tokens_per_second is not None and options.tokens_per_second <= 0:
        parser.error("--tokens-per-second must be above 0")
    return options


def run() -> int:
    """Train; the run's name is its config's path under `configs/`."""
    name = FOLDER.relative_to("runs").as_posix()
    with files.explained_space(RUN_DIR, "this run", "free space and start the same command again"):
        return pretrain(CONFIG, RUN_DIR, name=name, resume=OPTIONS.resume, time_limit=OPTIONS.time_limit)


if __name__ == "__main__":
    OPTIONS = arguments()
    if OPTIONS.plan:
        common.only_first_rank()
    with common.explained_errors(once=True):
        CONFIG = config.load(config.RunConfig, OPTIONS.config, OPTIONS.overrides)
    if OPTIONS.plan and OPTIONS.summary:
        from ofa.cost import summary

        rate = OPTIONS.tokens_per_second
        common.main_wrapper(lambda: print(summary(CONFIG, ranks=OPTIONS.ranks, tokens_per_second=rate)))
    if OPTIONS.plan:
        common.main_wrapper(lambda: plan.print_schedule(CONFIG, every=OPTIONS.plan_every))
    with common.explained_errors(once=True):
        FOLDER = config.run_folder(OPTIONS.config)
        RUN_DIR = Path(OPTIONS.run_dir or FOLDER)
        if OPTIONS.check:
            inputs.check_beforehand(CONFIG, RUN_DIR, OPTIONS.resume)
        finished = (RUN_DIR / "result.json").is_file()  # it needs its inputs no more
        if OPTIONS.check != "config" and not finished:
            inputs.check_later_inputs(CONFIG, OPTIONS.resume, OPTIONS.made)
    if OPTIONS.check:
        common.say_that_nothing_is_wrong(OPTIONS.check)
        sys.exit(common.DONE)
    if not finished:
        common.say_that_it_starts()
    from ofa.pretrain import pretrain  # after the checks: it takes seconds to import

    common.main_wrapper(run)
