"""Check an exported model folder: `python launch/verify.py runs/tiny/ofa_90 --expect-sparsity 0.9`.

Exit status 0 if all is well, 1 with a table of what is wrong.
"""

from __future__ import annotations

import argparse

import common


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, parents=[common.folder_arguments()])
    parser.add_argument(
        "--expect-sparsity", type=sparsity, metavar="S", help="every scoped tensor must have floor(S * numel) zeros"
    )
    return parser.parse_args()


def sparsity(text: str) -> float:
    """A fraction in [0, 1)."""
    value = float(text)
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"a sparsity is in [0, 1), found {text} (90 % is 0.9)")
    return value


def main() -> int:
    """Verify, print the table, give the exit status."""
    found = verify_folder(find_model_folder(given.folder), given.expect_sparsity)
    print(verification_table(found))
    return common.ERROR if found.problems else common.DONE


if __name__ == "__main__":
    given = arguments()

    from ofa.export.hf import find_model_folder
    from ofa.export.verify import verify_folder
    from ofa.export.verify_table import verification_table

    common.main_wrapper(main)
