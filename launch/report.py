"""Write the HTML report of a run, finished or not: `python launch/report.py runs/tiny/ofa_90`."""

from __future__ import annotations

import argparse
from pathlib import Path

import common


def arguments() -> argparse.Namespace:
    """The command line."""
    folder = common.folder_arguments("a run folder or a model folder")
    parser = argparse.ArgumentParser(description=__doc__, parents=[folder])
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to (default: report.html in the folder)")
    return parser.parse_args()


def main() -> None:
    """Build the page and say where it is."""
    print(build_report(given.folder, given.output))


if __name__ == "__main__":
    given = arguments()
    from ofa.models.place import check_there

    common.look(lambda: check_there(given.folder), folders=[given.folder], writes=[given.output])

    from ofa.report import build_report

    common.main_wrapper(main)
