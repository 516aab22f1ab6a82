"""Masked-LM loss and accuracy of any model folder on the validation rows of any prepared data.

    python launch/evaluate.py runs/tiny/ofa_90 --data data/docstrings
    python launch/evaluate.py bert-base-uncased --data data/wikipedia_20231101 --rows 8192 --json
"""

import argparse
import json

import common


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common.launcher_arguments()],
    )
    parser.add_argument("model", metavar="MODEL", help="a run folder, a model folder or a hub id")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder made by python -m data_prep")
    parser.add_argument(
        "--rows", type=common.positive, metavar="N", help="validation rows, from the first (default: all)"
    )
    parser.add_argument(
        "--micro-size", type=common.positive, default=32, metavar="B", help="rows of one forward (default 32)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser.parse_args()


def show() -> None:
    """Score and print."""
    row = evaluate_folder(OPTIONS.model, OPTIONS.data, rows=OPTIONS.rows, micro_size=OPTIONS.micro_size)
    print(json.dumps(row) if OPTIONS.json else result_table({"rows": [row]}).rstrip())


if __name__ == "__main__":
    OPTIONS = arguments()
    from ofa.evaluate import evaluate_folder  # after the arguments: it takes seconds to import
    from ofa.tables import result_table

    common.main_wrapper(show)
