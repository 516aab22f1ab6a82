"""Which layers of the teacher are distilled, and from which layer of the student each of them learns.

In: the number of the teacher's layers; distances between layers, and which of the student's live. Out: layer numbers
from 0, those of the student as a tensor on the device of the distances, made without the host waiting for it.

    fixed      spread evenly over the layers that live: of 12 the published 3, 6, 9, 12, of fewer the map of TinyBERT
    free       for each layer of the teacher the nearest that lives (CoFi's)
    monotone   the nearest in sum of those in order: higher layers of the teacher learn from higher layers of the
               student, no two from the same one (CoFi's for small tasks, by dynamic programming where the published
               code goes down greedily and can run out of layers)

A layer that is dead is never chosen (COFI-33): its state is that of the layer below once more. Where fewer layers live
than the teacher has chosen, some serve twice, in order; where none lives all states are the embedding's and all layers
count as alive.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ofa.data import counter

Matching = Literal["fixed", "free", "monotone"]

TeacherLayers = Literal["even", "random"]

_LARGEST = torch.finfo(torch.float32).max
"""Stands for a distance that is no number or infinite: farther than any other, but nearer than a dead layer."""


def chosen_layers(teacher_layers: int, how: TeacherLayers, seed: int, step: int, *, count: int = 4) -> tuple[int, ...]:
    """The teacher's layers that are distilled in a step, in order and counted from 0.

    Args:
        teacher_layers: how many the teacher has.
        how: `even` takes the last of each of `count` equal windows, of 12 layers the published 2, 5, 8, 11; `random`
            draws one of each window (after RAIL-KD, Haidar et al. 2022, section 3).
        seed: of the draw.
        step: of the draw; with the seed it says all, so every rank and every resumed run draws the same.
        count: how many; all of them where the teacher has fewer.
    """
    count = min(count, teacher_layers)
    ends = -(-np.arange(1, count + 1) * teacher_layers // count)
    if how == "even":
        return tuple((ends - 1).tolist())
    starts = np.concatenate([[0], ends[:-1]])
    fractions = counter.fractions(counter.bits(counter.key(seed, "teacher layers", step), np.arange(count)))
    return tuple((starts + np.floor(fractions * (ends - starts)).astype(np.int64)).tolist())


def align(costs: Tensor, alive: Tensor, how: Matching) -> Tensor:
    """For each chosen layer of the teacher the student's layer that learns from it.

    Args:
        costs: [K, L] distances, teacher's layers by student's, both in order; `fixed` reads its shape only.
        alive: bool [L]
        how: see the module.

    Returns:
        int64 [K] on the device of `costs`; of equal sums the one that is lowest at the top.
    """
    alive = alive | ~alive.any()
    if how == "fixed":
        return _fixed(len(costs), alive)
    finite = costs.double().nan_to_num(nan=_LARGEST).clamp(-_LARGEST, _LARGEST)  # doubles: their sums stay finite
    finite = finite.masked_fill(~alive, math.inf)
    return finite.argmin(dim=1) if how == "free" else _monotone(finite, alive)


def _fixed(count: int, alive: Tensor) -> Tensor:
    """The last of each of `count` equal windows of the layers that live."""
    so_far = alive.cumsum(0)
    windows = torch.arange(1, count + 1, device=alive.device)
    return torch.searchsorted(so_far, (windows * so_far[-1] + count - 1) // count)


def _monotone(costs: Tensor, alive: Tensor) -> Tensor:
    """The increasing sequence with the least sum: D[i, j] = c[i, j] + min over j' < j of D[i - 1, j'], and back; over
    j' <= j where fewer layers live than are needed."""
    again = alive.sum() < len(costs)
    best = [costs[0]]
    for row in costs[1:]:
        up_to = best[-1].cummin(dim=0).values
        below = torch.cat([up_to.new_full((1,), math.inf), up_to[:-1]])
        best.append(row + torch.where(again, up_to, below))
    layers = torch.arange(costs.shape[1], device=costs.device)
    chosen = [best[-1].argmin()]
    for row in reversed(best[:-1]):
        chosen.append(row.masked_fill(layers >= chosen[-1] + again, math.inf).argmin())
    return torch.stack(chosen[::-1])
