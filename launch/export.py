"""Export the model of a run's checkpoint, also while the run goes on or after it was given up.

    python launch/export.py runs/ofa_90                          # newest checkpoint -> runs/ofa_90/model
    python launch/export.py runs/ofa_90 --checkpoint runs/ofa_90/checkpoints/step-00050000 --output at_50k
"""

import argparse
from pathlib import Path

import common


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common.folder_arguments("a run folder")],
    )
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="a step-* folder (default: the newest)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to (default: model/ in the run folder)")
    return parser.parse_args()


def export() -> None:
    """Export and say what, where, and how far the run was."""
    output = OPTIONS.output or OPTIONS.folder / "model"
    step, *unfinished = stage_lines(export_checkpoint(OPTIONS.folder, output, OPTIONS.checkpoint))
    print(f"exported the model of {step} to {output}", *unfinished, sep="\n")
    print(f"check it with: python launch/verify.py {output}")


if __name__ == "__main__":
    OPTIONS = arguments()
    common.only_first_rank()
    from ofa.export.from_state import export_checkpoint  # after the arguments: it takes seconds to import
    from ofa.export.stage import stage_lines

    common.main_wrapper(export)
