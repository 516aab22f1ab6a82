"""How sparse a model is: fractions of zeros in the scope of an adapter row, and in the model without its heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ofa.models.adapters import adapter_for, encoder_names, scope_names


def sparsities(model: PreTrainedModel) -> dict[str, float]:
    """`encoder_sparsity`, `scope_sparsity` and `model_sparsity` of a model as it stands.

    Each is the fraction of zeros: in the encoder layers' prunable weights, in these and the pooler's, and in all
    parameters but the heads'. Zeros outside the scope (fresh biases, the padding row) are not counted.
    """
    return sparsities_of(base_parameters(model), scope_names(model), encoder_names(model))


def base_parameters(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Parameters of the model without its heads, by name: what published model sparsities count."""
    base = adapter_for(model.config.model_type).base
    return {name: parameter for name, parameter in model.named_parameters() if name.startswith(f"{base}.")}


def sparsities_of(tensors: Mapping[str, Tensor], scoped: Iterable[str], encoder: Iterable[str]) -> dict[str, float]:
    """As `sparsities`, for named tensors; `tensors` must hold tied weights once."""
    encoder, scoped = list(encoder), list(scoped)
    zeros = {name: tensors[name].numel() - int(torch.count_nonzero(tensors[name])) for name in {*encoder, *scoped}}

    def share(names: list[str], among: Iterable[str]) -> float:
        return sum(zeros[name] for name in names) / max(1, sum(tensors[name].numel() for name in among))

    return {
        "encoder_sparsity": share(encoder, encoder),
        "scope_sparsity": share(scoped, scoped),
        "model_sparsity": share(scoped, tensors),
    }
