"""Run a grid or a list of runs, and average them: `table.md`, `results.jsonl` and `sweep.png` in the sweep's folder.

    python launch/sweep.py --config tiny/sweep.json
    python launch/sweep.py --config tiny/sweep.json --dry-run                 # its runs, what is missing; -v: commands
    python launch/sweep.py --config tiny/sweep.json --only 'sparsity=0.9*' --workers 2
    python launch/sweep.py --config tiny/sweep.json --set 'grid.seed=[1,2,3]'  # keys of the sweep's own config
    python launch/sweep.py --config tiny/sweep.json --set 'grid.pruning.sparsity=[0.5]'    # a grid key has its dots
    python launch/sweep.py --config tiny/sweep.json --slurm                    # each run a job, through submitit

Started again, it skips what is done and continues the rest. Status 0: all done; 1: a run failed; 75: start it again.
"""

import argparse
from pathlib import Path

import common

from ofa import config


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="FILE", help="a path, or a name under configs/")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one value of the sweep's config; may be repeated",
    )
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="the sweep's folder (default: runs/ and its name)")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check every run's config, say how they differ and what is missing, and stop",
    )
    parser.add_argument("--check", action="store_true", help="say what is wrong or missing, and stop")
    common.add_made(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="with --dry-run: the whole commands")
    parser.add_argument("--only", metavar="PATTERN", help="runs whose name matches, such as 'dense-*'")
    parser.add_argument(
        "--workers", type=common.positive, metavar="N",
        help="runs side by side (default: 1; as jobs: all, local: what fits)"
    )
    parser.add_argument("--slurm", action="store_true", help="submit the runs as jobs, with the config's slurm values")
    parser.add_argument(
        "--uncommitted", action="store_true", help="with --slurm: run the checkout's files as they are now"
    )
    parser.add_argument(
        "--limit",
        type=common.duration,
        metavar="TIME",
        help="of each run: then it saves, to be continued by a restart; a job goes back into the queue",
    )
    found = parser.parse_args()
    if found.verbose and not found.dry_run:
        parser.error("-v is for --dry-run; what a run says stands in output.txt of its folder")
    if found.made and not found.check:
        parser.error("--made is for --check")
    if found.uncommitted and not found.slurm:
        parser.error("--uncommitted is for --slurm; here the checkout's files are run")
    return found


def main() -> int:
    """Print or run."""
    folder = OPTIONS.run_dir or config.run_folder(OPTIONS.config)
    if OPTIONS.check:
        check_sweep(CONFIG, folder, origin=OPTIONS.config, only=OPTIONS.only, made=OPTIONS.made)
        return common.DONE
    if OPTIONS.dry_run:
        print(preview(CONFIG, folder, origin=OPTIONS.config, only=OPTIONS.only, whole=OPTIONS.verbose))
        return common.DONE
    return sweep(
        CONFIG,
        folder,
        origin=OPTIONS.config,
        only=OPTIONS.only,
        workers=OPTIONS.workers,
        slurm=OPTIONS.slurm,
        uncommitted=OPTIONS.uncommitted,
        limit=OPTIONS.limit,
    )


if __name__ == "__main__":
    OPTIONS = arguments()
    with common.explained_errors():
        CONFIG = config.load(config.SweepConfig, OPTIONS.config, OPTIONS.overrides)
    from ofa.sweep.start import check_sweep, preview, sweep  # after the arguments: it takes seconds to import

    common.main_wrapper(main)
