"""What pre-training costs by model and number of GPUs: memory, traffic, disk and hours, from configs alone.

    python launch/cost.py ofa_90_distilbert.json ofa_90.json ofa_90_bert_large.json --ranks 1 8 64 --tflops 250
    python launch/cost.py my_ofa.json --ranks 4 --tflops 250 --markdown

Memory is that of weights, gradients, optimizer, masks and teacher; activations come on top (batch.micro_size decides
them). Hours are computing alone: loading, traffic that is not hidden, validations and saves come on top. How fast a GPU
is, a run's log says: `large matrix products run at ... TFLOP/s`, times the `mfu` of its metrics.
"""

import argparse

import common

from ofa import config
from ofa.tables import markdown_rows, table


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", metavar="FILE", help="a path, or a name under configs/")
    parser.add_argument("--ranks", type=common.positive, nargs="+", default=[1], metavar="N", help="default 1")
    parser.add_argument("--tflops", type=float, required=True, metavar="RATE", help="of training, by one GPU")
    parser.add_argument("--markdown", action="store_true")
    found = parser.parse_args()
    if not found.tflops > 0:
        parser.error("--tflops must be above 0")
    return found


def main() -> None:
    """Print the table."""
    lines = cost_lines(CONFIGS, OPTIONS.ranks, tflops=OPTIONS.tflops)
    print((markdown_rows if OPTIONS.markdown else table)(HEAD, lines))


if __name__ == "__main__":
    OPTIONS = arguments()
    with common.explained_errors():
        CONFIGS = [(name, config.load(config.RunConfig, name)) for name in OPTIONS.configs]
    from ofa.cost_table import HEAD, cost_lines  # after the arguments: it takes seconds to import

    common.main_wrapper(main)
