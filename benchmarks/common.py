"""Options that several benchmarks share: the sizes of the BERT that they train, and --quick."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

SIZES = ("layers", "hidden", "vocab", "sequence", "rows")


def size_options(of_rows: str, **defaults: int) -> argparse.ArgumentParser:
    """Parent parser: `SIZES`, --quick and --json.

    Args:
        of_rows: what has so many rows.
        defaults: sizes, by name.
    """
    parser = argparse.ArgumentParser(add_help=False)
    words = {
        "hidden": "heads of 64 (of 16 below 256), feed-forward 4 times",
        "sequence": "tokens of a row",
        "rows": f"packed rows of {of_rows}",
    }
    for name in SIZES:
        parser.add_argument(f"--{name}", type=int, default=defaults[name], help=words.get(name))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--json", action="store_true")
    return parser


def parsed(parser: argparse.ArgumentParser, quick: Mapping[str, object]) -> argparse.Namespace:
    """The command line; with --quick, its values in place of what was given."""
    options = parser.parse_args()
    if options.quick:
        vars(options).update(quick)
    return options


def architecture_of(layers: int, hidden: int, vocab: int, length: int) -> dict[str, object]:
    """A BERT of some layers in the proportions of BERT-base."""
    heads = hidden // (64 if hidden >= 256 else 16)
    sizes = {"hidden_size": hidden, "num_attention_heads": heads, "intermediate_size": 4 * hidden}
    lengths = {"vocab_size": vocab, "max_position_embeddings": length}
    return {"model_type": "bert", "num_hidden_layers": layers, **sizes, **lengths}
