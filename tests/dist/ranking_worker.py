"""One rank of test_ranking: selects masks over gloo and writes, per case, their hash and what travelled.

Run with one argument per case: "SPANS PATTERN tensor|global SPARSITY WEIGHTS"; see `equal_spans` and `WEIGHTS`. Where a
case begins with `profiled`, torch's profiler counts its collectives.
"""

import contextlib
import hashlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed
from torch.profiler import ProfilerActivity, profile

from ofa import dist
from ofa.pruning.ranking import Ranking
from tests.processes import end_rank
from tests.selection import equal_spans, make_groups

LAYER = {"query": (8, 8), "key": (8, 8), "value": (8, 8), "dense": (8, 8), "intermediate": (32, 8), "output": (8, 32)}
SHAPES = {f"{i}.{name}": torch.Size(shape) for i in range(12) for name, shape in LAYER.items()}
SHAPES["pooler"] = torch.Size((8, 8))
"""BERT-base's 73 scoped tensors, with 1/96 of its rows and columns: the sums over ranks have the size that they have
there. Masks and the strips that spans cut are smaller in proportion to the weights and to the rows; what travels of
strips at real sizes is `tests/unit/pruning/test_parts.py`'s to count."""

PROFILED = "profiled "


def smooth():
    """Weights without ties, the same on every rank."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def tied():
    """A few values only."""
    return {name: (weight * 2).round() / 2 for name, weight in smooth().items()}


def broken():
    """A NaN in the last tensor, which the last rank holds."""
    weights = smooth()
    weights["pooler"][-1, -1] = float("nan")
    return weights


WEIGHTS = {"smooth": smooth, "tied": tied, "broken": broken}


class Counted(dist.Together):
    """All ranks, with the bytes of each sum and of each exchange, sent and received, written down."""

    def __init__(self):
        super().__init__()
        self.sums, self.exchanges = [], []

    def sum(self, tensor):
        """As it is."""
        self.sums.append(tensor.nbytes)
        super().sum(tensor)

    def exchange(self, tensor, sent, received):
        """As it is."""
        came = super().exchange(tensor, sent, received)
        self.exchanges.append([tensor.nbytes, came.nbytes])
        return came


def select(case, profiled):
    """Run one case, under torch's profiler if that is wanted: it takes seconds."""
    kind, pattern, allocation, sparsity, weights_of = case.split()
    weights = WEIGHTS[weights_of]()
    held = equal_spans(kind, SHAPES, dist.world_size())
    groups = make_groups(weights, pattern, float(sparsity), allocation == "global")
    ranks = Counted() if dist.world_size() > 1 else dist.ALONE
    ranking = Ranking(groups, SHAPES, held, ranks=ranks)
    masters = [weights[span.name].flatten()[span.start : span.stop] for span in held[dist.rank()]]
    watch = profile(activities=[ProfilerActivity.CPU], record_shapes=True) if profiled else contextlib.nullcontext()
    try:
        with watch:
            keep = ranking.select(masters, [float(sparsity)] * len(groups))
    except ValueError as error:
        return {"error": str(error)}
    report = {"hash": mask_hash(keep), "sums": [], "exchanges": []}
    if isinstance(ranks, Counted):
        report.update(sums=ranks.sums, exchanges=ranks.exchanges)
    if isinstance(watch, profile):
        events = [event for event in watch.events() or [] if event.name.startswith("gloo:")]
        report["collectives"] = sorted(event.name.removeprefix("gloo:") for event in events)
        report["gathered"] = [event.input_shapes[0][0] for event in events if event.name == "gloo:all_gather"]
    return report


def mask_hash(keep):
    """Of all masks in model order."""
    return hashlib.sha256(b"".join(keep[name].numpy().tobytes() for name in SHAPES)).hexdigest()


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    reports = [select(case.removeprefix(PROFILED), case.startswith(PROFILED)) for case in sys.argv[1:]]
    Path(f"rank-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
