"""Export a model: of a pre-training run's checkpoint, also while it goes on or was given up; or for a runtime.

python launch/export.py runs/ofa_90                          # newest checkpoint -> runs/ofa_90/model
python launch/export.py runs/ofa_90 --checkpoint runs/ofa_90/checkpoints/step-00050000 --output at_50k
python launch/export.py --from-reference DIR --output OUT    # a checkpoint of the published implementation
python launch/export.py runs/tiny/qat --format onnx          # a task model -> runs/tiny/qat/onnx; or openvino
python launch/export.py runs/tiny/cofi --format stock        # a structurally pruned one -> runs/tiny/cofi/stock
"""

import argparse
from pathlib import Path

import common

OF_RUNTIMES = ("precision", "task", "path", "overrides", "rows")
"""Options that say how a task model is written for a runtime."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common.launcher_arguments()],
    )
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        metavar="DIR",
        help="the folder of a run that pre-trains; with --format a task model, or the folder of its run",
    )
    parser.add_argument(
        "--from-reference",
        type=Path,
        metavar="DIR",
        help="in place of a run: an in-training checkpoint (weight_original, weight_mask) of the published code",
    )
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="a step-* folder (default: the newest)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where to (default: model/, or the format's name, in the run folder)"
    )
    parser.add_argument(
        "--format",
        choices=("onnx", "openvino", "stock"),
        help="onnx, openvino: of a finished task model, what the runtime reads; stock: of a structurally pruned model "
        "(structure.dead_sublayer=keep_norm), one of a stock class, smaller where that can be said, else padded with "
        "zeros",
    )
    runtimes = parser.add_argument_group("for a runtime", "a finished task model, reloaded and held against torch")
    runtimes.add_argument(
        "--precision",
        choices=("fp32", "int8"),
        help="default: int8 where the model was trained in 8 bits (launch/qat.py), else fp32",
    )
    common.task_arguments(
        runtimes,
        task="whose rows it is compared on (default: the one that it was fine-tuned on, if its files are here)",
    )
    runtimes.add_argument(
        "--rows", type=common.positive, metavar="N", help="rows it is compared on (default: all, up to 1000)"
    )
    given = parser.parse_args()
    if (given.folder is None) == (given.from_reference is None):
        parser.error("give a run folder, or a folder with --from-reference")
    if given.from_reference and (given.checkpoint or not given.output):
        parser.error("--from-reference needs --output and takes no --checkpoint")
    foreign = common.foreign_option(given, OF_RUNTIMES) if given.format in (None, "stock") else None
    if foreign:
        parser.error(f"{foreign} is for a runtime: give --format onnx or openvino too")
    if given.format and (given.from_reference or given.checkpoint):
        parser.error("--format takes a finished model, and neither --from-reference nor --checkpoint")
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


def to_runtime() -> None:
    """Export for a runtime and say what it was held against."""
    output = OPTIONS.output or default_output(OPTIONS.folder, OPTIONS.format)
    rows = Rows(OPTIONS.rows, OPTIONS.task, OPTIONS.path, OPTIONS.overrides or ())
    wanted = Wanted(FORMATS[OPTIONS.format], OPTIONS.precision, rows)
    print(*export_lines(output, export_to_runtime(OPTIONS.folder, output, wanted)), sep="\n")


def to_stock() -> None:
    """Export a structurally pruned model in a stock class and say which form it has."""
    output = OPTIONS.output or default_output(OPTIONS.folder, STOCK)
    recipe = export_stock(OPTIONS.folder, output)
    print(f"exported to {output}: {recipe['scope']['model_type']}, {recipe['stock_form']}")
    print(f"check it with: python launch/verify.py {output}")


if __name__ == "__main__":
    OPTIONS = arguments()
    common.only_first_rank()
    from ofa.models.place import MODEL_FOLDER, beside_model, check_there

    MADE = OPTIONS.output or beside_model(OPTIONS.folder, OPTIONS.format or MODEL_FOLDER)
    common.look(
        lambda: None if OPTIONS.folder is None else check_there(OPTIONS.folder),
        folders=[OPTIONS.folder, OPTIONS.from_reference, OPTIONS.checkpoint],
        writes=[MADE],
    )
    from ofa.export.from_reference import export_reference  # after the arguments: it takes seconds to import
    from ofa.export.from_state import export_checkpoint
    from ofa.export.stage import percent, stage_lines
    from ofa.export.stock import STOCK, export_stock
    from ofa.runtimes.export import Wanted, default_output, export_lines, export_to_runtime
    from ofa.runtimes.formats import FORMATS
    from ofa.runtimes.sample import Rows

    KINDS = {None: import_reference if OPTIONS.from_reference else export, STOCK: to_stock}
    common.main_wrapper(KINDS.get(OPTIONS.format, to_runtime))
