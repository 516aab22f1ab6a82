"""Selection a second time, by sorting, and ranks that are threads of one process: what tests hold `ofa.pruning` to."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import numpy as np
import torch

from ofa.pruning.allocation import RankingGroup
from ofa.pruning.pattern import make_pattern
from ofa.pruning.pruner import Span
from ofa.pruning.ranking import Ranking

WAIT_S = 20


def keep_largest(scores, sparsity, ties="index"):
    """Keep mask of one tensor of scores: all but the first floor(s n) of a stable sort.

    `drop_all` drops everything up to the largest of these, as the published code does.
    """
    flat = scores.detach().flatten().numpy()
    order = np.argsort(flat, kind="stable")
    count = math.floor(Decimal(str(sparsity)) * flat.size)
    keep = np.ones(flat.size, dtype=bool)
    keep[order[:count]] = False
    if ties == "drop_all" and count:
        keep = flat > flat[order[count - 1]]
    return torch.from_numpy(keep).view_as(scores)


def keep_by_sorting(groups, weights, sparsities, frozen=None):
    """Keep masks of named weights, every unit written out and sorted with the others of its group."""
    keep = {name: np.ones(weight.numel(), dtype=bool) for name, weight in weights.items()}
    for group, sparsity in zip(groups, sparsities, strict=True):
        units = []
        for name in weights:
            if name in group.names:
                gone = ~frozen[name].flatten().numpy() if frozen else np.zeros(weights[name].numel(), dtype=bool)
                units += [(name, *unit) for unit in units_of(group.pattern.text, weights[name], gone)]
        order = sorted(range(len(units)), key=lambda place: units[place][1])  # sorted() is stable
        for place in order[: units_to_drop(group.pattern.text, len(units), sparsity)]:
            name, _, places = units[place]
            keep[name][places] = False
    return {
        name: torch.from_numpy(flat).view_as(weights[name]) & (frozen[name] if frozen else True)
        for name, flat in keep.items()
    }


def units_to_drop(text, units, sparsity):
    """floor(sparsity * units); for N:M the share of groups that holds the fraction."""
    if ":" not in text:
        return math.floor(Decimal(str(sparsity)) * units)
    kept, size = map(int, text.split(":"))
    if sparsity >= (size - kept) / size:
        return units
    return math.floor(Decimal(str(sparsity)) * units * size / (size - kept))


def units_of(text, weight, gone):
    """[(score, flat places that it drops)] of one tensor, in order; score -1 where all of these are gone."""
    flat = np.where(gone, np.float32(-1), weight.detach().abs().flatten().numpy())
    places = np.arange(flat.size).reshape(weight.shape)
    if text == "unstructured":
        return [(flat[place], [place]) for place in places.flatten()]
    if ":" in text:
        kept, size = map(int, text.split(":"))
        rows = places.reshape(-1, size)
        chosen = [row[np.argsort(flat[row], kind="stable")[: size - kept]] for row in rows]
        return [(in_order(flat[some]), some) for some in chosen]
    height, width = map(int, text.split("x"))
    found = []
    for top in range(0, weight.shape[0], height):
        for left in range(0, weight.shape[1], width):
            block = places[top : top + height, left : left + width]
            columns = [np.float32(in_order(flat[column])) for column in block.T]
            score = -1.0 if (flat[block] < 0).all() else in_order(np.maximum(columns, 0))
            found.append((score, block.flatten()))
    return found


def in_order(values):
    """fp32 sum from the first value to the last; -1 if every one is gone."""
    if all(value < 0 for value in values):
        return np.float32(-1)
    total = np.float32(0)
    for value in values:
        total = np.float32(total + max(value, np.float32(0)))
    return total


class ThreadRank:
    """One of several ranks that are threads of this process."""

    def __init__(self, number, board):
        self.number, self.size, self._board = number, len(board.slots), board

    def sum(self, tensor):
        """As `ofa.dist.Ranks.sum`."""
        tensor.copy_(sum(self._board.exchange(self.number, tensor.clone())))

    def gather(self, tensor):
        """As `ofa.dist.Ranks.gather`."""
        return self._board.exchange(self.number, tensor.clone())

    def exchange(self, tensor, sent, received):
        """As `ofa.dist.Ranks.exchange`."""
        came = [meant[self.number] for meant in self._board.exchange(self.number, tensor.clone().split(list(sent)))]
        assert [part.numel() for part in came] == list(received)
        return torch.cat(came)


class Board:
    """Where threads leave what the others read."""

    def __init__(self, size):
        self.slots = [None] * size
        self.barrier = threading.Barrier(size)

    def exchange(self, number, value):
        """What every thread brought."""
        self.slots[number] = value
        self.barrier.wait(WAIT_S)
        found = list(self.slots)
        self.barrier.wait(WAIT_S)
        return found


def on_ranks(spans, groups, weights, sparsities, frozen=None, ties="index"):
    """Select on len(spans) ranks; per rank its masks, or the error that it raised."""
    board = Board(len(spans))
    shapes = {name: weight.shape for name, weight in weights.items()}

    def one(number):
        ranking = Ranking(groups, shapes, spans, ties=ties, ranks=ThreadRank(number, board))
        masters = [weights[span.name].detach().flatten()[span.start : span.stop] for span in spans[number]]
        try:
            return ranking.select(masters, sparsities, frozen)
        except ValueError as error:
            return error

    with ThreadPoolExecutor(len(spans)) as pool:
        return list(pool.map(one, range(len(spans))))


def spans_of(shapes, cuts, owners, ranks):
    """Spans by rank: each tensor cut at the given shares of its length, pieces dealt out in the order of `owners`."""
    spans = [[] for _ in range(ranks)]
    turn = 0
    for name, shape in shapes.items():
        ends = [0, *sorted({int(cut * shape.numel()) for cut in cuts}), shape.numel()]
        for start, stop in zip(ends[:-1], ends[1:], strict=True):
            if start < stop:
                spans[owners[turn % len(owners)] % ranks].append(Span(name, start, stop))
                turn += 1
    return spans


def equal_spans(kind, shapes, ranks):
    """By rank: `flat` cuts the flattened scope into equal runs (ZeRO 1 and 2), `each` every tensor (ZeRO 3), `odd`
    every tensor at places that cut units, `outer` likewise for the first and the last rank alone, `last` gives
    everything to the last rank."""
    holders = {"outer": [0, ranks - 1], "last": [ranks - 1]}.get(kind, list(range(ranks)))
    off = 3 if kind in ("odd", "outer") else 0
    found, begin = [[] for _ in range(ranks)], 0
    total = sum(shape.numel() for shape in shapes.values())
    for name, shape in shapes.items():
        size = shape.numel()
        ends = [size * turn // len(holders) + off for turn in range(1, len(holders))]
        if kind == "flat":
            ends = [total * turn // ranks - begin for turn in range(1, ranks)]
        ends = [min(max(0, end), size) for end in (0, *ends, size)]
        for holder, start, stop in zip(holders, ends[:-1], ends[1:], strict=True):
            if start < stop:
                found[holder].append(Span(name, start, stop))
        begin += size
    return found


def weights_that_travel(shapes, strips, spans):
    """What each rank sends and what it receives, weight by weight: a weight travels if another rank holds the first one
    of its strip."""
    sent, received = np.zeros(len(spans), int), np.zeros(len(spans), int)
    for name, shape in shapes.items():
        holder = np.empty(shape.numel(), int)
        for rank, of_rank in enumerate(spans):
            for span in of_rank:
                if span.name == name:
                    holder[span.start : span.stop] = rank
        owner = holder[:: strips[name]].repeat(strips[name])
        sent += np.bincount(holder[holder != owner], minlength=len(spans))
        received += np.bincount(owner[holder != owner], minlength=len(spans))
    return sent.tolist(), received.tolist()


def make_groups(names, pattern, sparsity, together):
    """One group of all tensors, or one for each."""
    sets = [tuple(names)] if together else [(name,) for name in names]
    return [RankingGroup(some, make_pattern(pattern), 0.0, sparsity) for some in sets]
