"""Check a folder that this project has made: a model, one that was exported to a runtime, or prepared data.

    python launch/verify.py runs/tiny/ofa_90 --expect-sparsity 0.9    # zeros, masks and recipe, from the files
    python launch/verify.py runs/tiny/finetune --same-zeros-as runs/tiny/ofa_90     # zeros kept by fine-tuning
    python launch/verify.py runs/tiny/qat/onnx                        # weights in the runtime's file, and its answers
    python launch/verify.py data/docstrings                           # every shard: sha256, rows, counts, tokenizer

Exit status 0 if all is well, 1 with a table of what is wrong.
"""

from __future__ import annotations

import argparse

import common


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common.folder_arguments("a run folder, a model folder, one exported to a runtime, or prepared data")],
    )
    parser.add_argument(
        "--expect-sparsity",
        type=sparsity,
        metavar="S",
        help="of a model: the fraction of zeros, such as 0.9, that every scoped tensor must have, to the weight",
    )
    parser.add_argument(
        "--same-zeros-as",
        metavar="BASE",
        help="of a model: folder or hub id of what it was fine-tuned from; its zeros must be those, place by place "
        "(of a compact model: a compact one of the same structure)",
    )
    return parser.parse_args()


def sparsity(text: str) -> float:
    """A fraction in [0, 1)."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a sparsity is a number in [0, 1), found {text}") from None
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"a sparsity is in [0, 1), found {text} (90 % is 0.9)")
    return value


def main() -> int:
    """Verify, print the table, give the exit status."""
    if any((given.folder / name).exists() for name in ("manifest.json", ".work")):
        return verify_data()
    if (given.folder / EXPORT_FILE).exists():
        return verify_for_runtime()
    folder = find_model_folder(given.folder)
    compared = compare_zeros(folder, given.same_zeros_as) if given.same_zeros_as else None
    found = verify_folder(folder, given.expect_sparsity)
    if compared is not None:
        found.notes += [*compared.notes, compared.line]
        found.problems += compared.problems()
    print(verification_table(found))
    return common.ERROR if found.problems else common.DONE


def verify_for_runtime() -> int:
    """The same for an exported folder."""
    if given.same_zeros_as:
        raise ValueError(
            f"{given.folder} was exported to a runtime, and its file has the weights of the model folder bit for bit: "
            "give --same-zeros-as with that one"
        )
    found = verify_export(given.folder, given.expect_sparsity)
    print(verification_table(found))
    return common.ERROR if found.problems else common.DONE


def verify_data() -> int:
    """The same for prepared data."""
    for option, value in (("--expect-sparsity", given.expect_sparsity), ("--same-zeros-as", given.same_zeros_as)):
        if value is not None:
            raise ValueError(f"{given.folder} holds prepared data, which has no sparsity: leave {option} out")
    states = Corpus.described(given.folder).inspect()
    print(corpus_table(given.folder, states))
    return common.ERROR if any(state.problem for state in states) else common.DONE


if __name__ == "__main__":
    given = arguments()
    from ofa.models.place import check_there

    common.look(lambda: check_there(given.folder), folders=[given.folder], models=[given.same_zeros_as])

    from ofa.data.shards import Corpus
    from ofa.export.hf import find_model_folder
    from ofa.export.same_zeros import compare_zeros
    from ofa.export.verify import verify_folder
    from ofa.export.verify_table import corpus_table, verification_table
    from ofa.runtimes.export_file import EXPORT_FILE
    from ofa.runtimes.verify import verify_export

    common.main_wrapper(main)
