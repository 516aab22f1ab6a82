"""Training steps between the reference's way and ours, made of switches.

In: a student with its optimizer, a teacher, masks, batches in three layouts. Out: steps that can be timed in turns. All
steps of one precision train the same weights (hooks are installed for the time of a step and removed again), so a
ladder of a dozen needs the memory of one. With every switch on, a step runs through the modules of the product:
`MaskedLanguageModeling`, `Teacher`, the chunked loss, `MaskSet`. Every step clips its gradient and updates with torch's
fused AdamW, so these two do not count for either side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks.reference_step import TEMPERATURE, full_head_loss, gathered_head_loss, masked_in_forward
from benchmarks.step_batches import Layout, StepBatch
from ofa.config import ModelConfig, ObjectiveConfig
from ofa.models.adapters import encoder_layers, scope
from ofa.models.build import build_model
from ofa.models.compile import compile_layers
from ofa.models.pretraining import MaskedLanguageModeling, Teacher
from ofa.pruning.mask_set import MaskSet

Precision = Literal["fp32", "bf16"]
LEARNING_RATE = 1e-5
CLIP = 1.0


@dataclass(frozen=True)
class Variant:
    """Which improvements a step has; all off is the reference."""

    pack: bool = False
    """Packed rows instead of padded ones."""
    masked_head: bool = False
    """Heads of student and teacher at predicted positions only; distilled are these instead of all real ones."""
    fused_loss: bool = False
    """Decoder, cross-entropy and distillation in chunks with their gradients, over real positions; no full logits."""
    masks_in_backward: bool = False
    """Gradients are masked and live weights once after the update (the `retain` mode), instead of w * mask in every
    forward."""
    compile: bool = False
    """Encoder layers of student and teacher compiled one by one."""
    bf16_weights: bool = False
    """With bf16: weights and teacher in bf16 beside fp32 masters, instead of autocast over fp32 weights."""
    full_rows: bool = False
    """The reference without padding: segments end to end, seen as one text."""
    distil: bool = True
    prune: bool = True

    @property
    def layout(self) -> Layout:
        """Form of the batches that this step takes."""
        return "packed" if self.pack else "full" if self.full_rows else "padded"

    def with_all(self, precision: Precision) -> Variant:
        """Every improvement on."""
        return replace(self, full_rows=False, **dict.fromkeys(improvements(precision), True))


def improvements(precision: Precision) -> list[str]:
    """Names of the switches that matter at a precision."""
    names = [one.name for one in fields(Variant)]
    own = names[: names.index("full_rows")]
    return own if precision == "bf16" else [name for name in own if name != "bf16_weights"]


def ladder(precision: Precision) -> dict[str, Variant]:
    """The reference, each improvement alone, all together; then the same objective, and training without a teacher."""
    reference, plain = Variant(), Variant(distil=False, prune=False)
    alone = {name: replace(reference, **{name: True}) for name in improvements(precision)}
    if precision == "bf16":
        # The chunked loss computes in the weights' dtype, so alone it would run in fp32.
        alone["fused_loss"] = replace(alone["fused_loss"], bf16_weights=True)
    everything = reference.with_all(precision)
    return {
        "reference": reference,
        "reference_full_rows": replace(reference, full_rows=True),
        **alone,
        "all": everything,
        "all_same_objective": replace(everything, masked_head=False),
        "plain_reference": plain,
        "plain_reference_full_rows": replace(plain, full_rows=True),
        "plain_all": replace(plain.with_all(precision), masks_in_backward=False),
    }


class Student:
    """A model in training: weights, fused AdamW, and fp32 masters if the weights are bf16."""

    def __init__(self, model: PreTrainedModel, *, bf16_weights: bool = False):
        """Takes the model over; it must be on its device."""
        self.model = _moved(model, dtype=torch.bfloat16) if bf16_weights else model
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self._masters = [nn.Parameter(p.detach().float()) for p in self.parameters] if bf16_weights else self.parameters
        self._optimizer = torch.optim.AdamW(self._masters, lr=LEARNING_RATE, weight_decay=0.01, fused=True)

    def update(self) -> None:
        """Clip, step, and forget the gradients."""
        if self._masters is not self.parameters:
            for master, parameter in zip(self._masters, self.parameters, strict=True):
                master.grad = None if parameter.grad is None else parameter.grad.float()
                parameter.grad = None
        nn.utils.clip_grad_norm_(self._masters, CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._masters is not self.parameters:
            with torch.no_grad():
                for master, parameter in zip(self._masters, self.parameters, strict=True):
                    parameter.copy_(master)


@dataclass(frozen=True)
class Models:
    """One student and one teacher a precision of weights, and the masks of both."""

    precision: Precision
    device: str
    students: dict[bool, Student]
    """By `bf16_weights`."""
    teachers: dict[bool, PreTrainedModel]
    keep: dict[str, Tensor]
    """Boolean masks by parameter name."""


def build_models(
    architecture: Mapping[str, object], *, precision: Precision, device: str, sparsity: float = 0.9, seed: int = 0
) -> Models:
    """Fresh models with zeros at random places of the scope; the teacher is as large as the student."""
    config = ModelConfig(architecture=dict(architecture))
    student, teacher = (_moved(build_model(config, seed=seed + offset), device=device) for offset in (0, 1))
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    with torch.no_grad():
        for name, weight in scope(student).items():
            keep[name] = (torch.rand(weight.shape, generator=generator) >= sparsity).to(device)
            weight.mul_(keep[name])
    teacher = teacher.eval().requires_grad_(False)
    kinds = [False, True] if precision == "bf16" else [False]
    students = {low: Student(copied(student), bf16_weights=low) for low in kinds}
    teachers = {low: _moved(copied(teacher), dtype=torch.bfloat16 if low else None) for low in kinds}
    return Models(precision, device, students, teachers, keep)


def copied(model: PreTrainedModel) -> PreTrainedModel:
    """A model of its own with the same weights and mode."""
    twin = _moved(type(model)(model.config), device=model.device)
    twin.load_state_dict(model.state_dict())
    return twin.train(model.training).requires_grad_(next(model.parameters()).requires_grad)


def _moved(model: PreTrainedModel, **where: Any) -> PreTrainedModel:
    nn.Module.to(model, **where)
    return model


class Step:
    """One kind of training step: `loss` of a batch, and the whole step by calling it inside `installed`."""

    def __init__(self, variant: Variant, models: Models):
        self.variant = variant
        self.student = models.students[variant.bf16_weights]
        self.teacher = models.teachers[variant.bf16_weights] if variant.distil else None
        self._keep = models.keep
        self._scoped = scope(self.student.model)
        self._device = models.device
        self._autocasts = models.precision == "bf16" and not variant.bf16_weights
        self._masks = MaskSet({name: p.shape for name, p in self._scoped.items()}, models.device)
        for name, keep in models.keep.items():
            self._masks.keep[name].copy_(keep)
        dtype = self.student.parameters[0].dtype
        self.forward_masks = {name: mask.to(dtype) for name, mask in models.keep.items()} if self._in_forward else {}
        self.objective = ObjectiveConfig(
            ce_weight=0.5 if variant.distil else 1.0, kd_weight=0.5 if variant.distil else 0.0, temperature=TEMPERATURE
        )
        self._module = MaskedLanguageModeling(self.student.model, self.objective)
        self._teacher = Teacher(self.teacher, self.objective) if self.teacher is not None else None
        self._layers = [layer for model in self._models for layer in encoder_layers(model)]
        self._compiled: list[Any] = []

    @property
    def _models(self) -> list[PreTrainedModel]:
        return [self.student.model] + ([self.teacher] if self.teacher is not None else [])

    @property
    def backward_masks(self) -> Mapping[str, Tensor]:
        """The boolean masks that gradients are multiplied with; none if the masks act in the forward."""
        return self._masks.keep if self.variant.prune and self.variant.masks_in_backward else {}

    @property
    def _in_forward(self) -> bool:
        return self.variant.prune and not self.variant.masks_in_backward

    @contextmanager
    def installed(self) -> Iterator[Step]:
        """The step's hooks and compiled layers are in place while this is open."""
        hooks = self._masks.mask_gradients(self._scoped) if self.backward_masks else []
        masking = masked_in_forward(self.student.model, self.forward_masks) if self._in_forward else nullcontext()
        try:
            with masking:
                self._switch_compiled(self.variant.compile)
                yield self
        finally:
            for hook in hooks:
                hook.remove()
            self._switch_compiled(False)

    def _switch_compiled(self, on: bool) -> None:
        """Module.compile sets one attribute; taking it away and putting it back keeps what was compiled."""
        if on and not self._compiled:
            compile_layers(self._models, device=self._device)
            self._compiled = [layer._compiled_call_impl for layer in self._layers]
        for number, layer in enumerate(self._layers):
            layer._compiled_call_impl = self._compiled[number] if on else None

    def loss(self, batch: StepBatch) -> Tensor:
        """The mean loss of a batch, with its graph."""
        with torch.autocast(torch.device(self._device).type, torch.bfloat16, enabled=self._autocasts):
            if not self.variant.fused_loss:
                loss_of = gathered_head_loss if self.variant.masked_head else full_head_loss
                return loss_of(self.student.model, self.teacher, batch)
            micro = replace(batch.micro, distilled=None) if self.variant.masked_head else batch.micro
            targets = self._teacher.targets(micro) if self._teacher is not None else None
            return self._module(micro, batch.totals, targets)[0]

    def check_loss(self, batch: StepBatch) -> float:
        """The loss without dropout; nothing is trained."""
        self.student.model.eval()
        with self.installed(), torch.no_grad():
            loss = self.loss(batch).item()
        self.student.model.train()
        return loss

    def __call__(self, batch: StepBatch) -> Tensor:
        """Forward, backward, update and masks; returns the loss without waiting for it."""
        loss = self.loss(batch)
        loss.backward()
        self.student.update()
        with torch.no_grad():
            for name, keep in self.backward_masks.items():
                self._scoped[name].mul_(keep)
        return loss.detach()
