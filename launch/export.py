"""Export the model of a run's checkpoint, also while the run goes on or after it was given up.

python launch/export.py runs/ofa_90                          # newest checkpoint -> runs/ofa_90/model
python launch/export.py runs/ofa_90 --checkpoint runs/ofa_90/checkpoints/step-00050000 --output at_50k
python launch/export.py --from-reference DIR --output OUT    # a checkpoint of the published implementation
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
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR", help="a run folder")
    parser.add_argument(
        "--from-reference",
        type=Path,
        metavar="DIR",
        help="in place of a run: an in-training checkpoint (weight_original, weight_mask) of the published code",
    )
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="a step-* folder (default: the newest)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to (default: model/ in the run folder)")
    given = parser.parse_args()
    if (given.folder is None) == (given.from_reference is None):
        parser.error("give a run folder, or a folder with --from-reference")
    if given.from_reference and (given.checkpoint or not given.output):
        parser.error("--from-reference needs --output and takes no --checkpoint")
    return given


def import_reference() -> None:
    """Import and say what and where."""
    recipe = export_reference(OPTIONS.from_reference, OPTIONS.output)
    print(f"imported {recipe['imported']['file']} of {OPTIONS.from_reference} to {OPTIONS.output}")
    for name in recipe["imported"]["unscoped"]:
        print(f"{name} was pruned too: its zeros are kept in the file, but it is no weight that is pruned here")
    print(f"scope: {recipe['scope']['weights']:,} weights, {percent(recipe['sparsity']['scope_sparsity'], 4)} zeros")
    print(f"check it with: python launch/verify.py {OPTIONS.output}")


def export() -> None:
    """Export and say what, where, and how far the run was."""
    output = OPTIONS.output or OPTIONS.folder / "model"
    step, *unfinished = stage_lines(export_checkpoint(OPTIONS.folder, output, OPTIONS.checkpoint))
    print(f"exported the model of {step} to {output}", *unfinished, sep="\n")
    print(f"check it with: python launch/verify.py {output}")


if __name__ == "__main__":
    OPTIONS = arguments()
    common.only_first_rank()
    from ofa.export.from_reference import export_reference  # after the arguments: it takes seconds to import
    from ofa.export.from_state import export_checkpoint
    from ofa.export.stage import percent, stage_lines

    common.main_wrapper(import_reference if OPTIONS.from_reference else export)
