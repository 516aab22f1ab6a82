"""Distillation of hidden states, layer by layer (CoFi section 2.2), as a module that the engine trains.

In: hidden states after each layer of the student, those of the teacher's chosen layers, and the layers that live. Out:
a sum, which the caller divides by the tokens of the global batch, and who learned from whom.

    sum over pairs and tokens of mean over dimensions of (W h + b - t)^2

W is one for all layers, learned with the student and thrown away at the end. The published loss is a mean over all
positions, padding included; here padding counts nothing (COFI-34).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ofa.downstream.cofi.layer_distance import distances, matched_distance
from ofa.downstream.cofi.matching import Matching, align


class LayerDistillation(nn.Module):
    """W, and the loss of what it makes of the student's states.

    W belongs to this module itself and is read in its forward alone, so ZeRO 3 gathers it once, however many tokens a
    rank has. It must be inside the module that the engine trains: what reaches a loss by another way is not divided by
    the accumulation.
    """

    def __init__(self, student_hidden: int, teacher_hidden: int):
        """W starts as the identity, so that a student equal to its teacher has nothing to learn; between other sizes as
        a random rotation (torch's generator), which changes no length where it widens."""
        super().__init__()
        weight = torch.empty(teacher_hidden, student_hidden)
        init = nn.init.eye_ if student_hidden == teacher_hidden else nn.init.orthogonal_
        self.weight = nn.Parameter(init(weight))
        self.bias = nn.Parameter(torch.zeros(teacher_hidden))

    def forward(
        self, student: Sequence[Tensor], teacher: Tensor, attention_mask: Tensor, alive: Tensor, how: Matching
    ) -> tuple[Tensor, Tensor]:
        """Loss of one micro-batch and the alignment it was made with.

        Args:
            student: L tensors [B, S, d], the states after each layer, without the embedding's.
            teacher: [K, B, S, d_t], of the layers that `chosen_layers` names, in order.
            attention_mask: [B, S], 0 at padding.
            alive: bool [L], layers of which a sublayer lives (`StructureMasks.alive_layers`).
            how: they are matched.

        Returns:
            The sum as a scalar in fp32, and int64 [K], the student's layer for each of the teacher's.
        """
        self._check(student, teacher, alive)
        counted = attention_mask.bool()
        if how == "fixed":
            costs = teacher.new_zeros(len(teacher), len(student))
        else:
            costs = distances(student, teacher, counted, self.weight, self.bias)
        alignment = align(costs, alive, how)
        return matched_distance(student, teacher, counted, self.weight, self.bias, alignment), alignment

    def _check(self, student: Sequence[Tensor], teacher: Tensor, alive: Tensor) -> None:
        """Shapes, which cost no look at the device; a sum over wrong ones could come out all the same."""
        assert len(alive) == len(student), f"states of {len(student)} layers, of which {len(alive)} may live"
        for states in student:
            assert states.shape[:2] == teacher.shape[1:3], f"student {[*states.shape]}, teacher {[*teacher.shape]}"
        widths = student[0].shape[-1], teacher.shape[-1]
        expected = tuple(reversed(self.weight.shape))
        assert widths == expected, f"hidden sizes of student and teacher are {widths}, W was made for {expected}"
