"""What all runs are doing: state, attempts, step, sparsity, loss, rate, time left, last error; one row a run, and one a
job that has no run folder, such as data preparation.

    python launch/status.py                         # everything below runs/
    python launch/status.py runs/ofa_90 runs/glue   # these; a sweep that is named has a row for each of its runs
    python launch/status.py --watch                 # drawn anew every 5 seconds, until Ctrl-C
    python launch/status.py --json                  # the rows as JSON, with what the table leaves out

In a terminal the table is as wide as that; what does not fit is in --json, or in a pipe such as `| less -S`.
It reads files, and Slurm's queue where there is one; a run is not disturbed by being looked at.
"""

import argparse
import contextlib
from pathlib import Path

import common

from ofa.cluster import show


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", type=Path, nargs="*", metavar="DIR", help="run folders, or folders with runs below (default: runs)"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="go on, and draw the table anew")
    how.add_argument("--json", action="store_true", help="print a JSON list, an object a run")
    parser.add_argument(
        "--every", type=common.duration, metavar="TIME", help="with --watch: between two looks (default 5 seconds)"
    )
    given = parser.parse_args()
    if given.every and not given.watch:
        parser.error("--every is for --watch")
    return given


def main() -> int:
    """Print the table, once or again and again."""
    folders = OPTIONS.folders or [Path("runs")]
    if not OPTIONS.watch:
        show.print_once(folders, as_json=OPTIONS.json)
        return common.DONE
    with contextlib.suppress(KeyboardInterrupt):
        show.watch(folders, every=OPTIONS.every or 5.0)
    return common.DONE


if __name__ == "__main__":
    OPTIONS = arguments()
    common.main_wrapper(main)
