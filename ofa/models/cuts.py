"""What masks do to the tensors of a stock state dict: numbers to multiply in, rows and columns to leave out.

Comes in: a stock model and canonical masks on the CPU. Goes out: its state dict with the masks folded in, and a plan
that slices whatever is stored by the same names, weights and their boolean masks alike.

Soft masks fold exactly if they are multiplied into everything that writes to the residual stream, which are both
weights and biases of each norm and of both output projections, and the embeddings; what reads from the stream is left
alone (cofi.md 2.1; the published code scales the readers and misses the skip path, and is off by up to 1.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ofa.models.adapters import adapter_for
from ofa.models.architecture import Blocks
from ofa.models.blocks import blocks_of, reader_paths, sizes_of, stream_of
from ofa.models.structure import Sizes, StructureMasks

DeadSublayer = Literal["skip", "keep_norm"]
"""What a dead sublayer of a post-norm encoder does: give back its input, or the norm of it."""


@dataclass(frozen=True)
class Plan:
    """Names of a stock state dict, and which rows and columns of each tensor stay."""

    cuts: dict[str, tuple[Tensor | None, ...]]
    """int64 indices along each dimension, None for all; only of tensors of which something goes."""
    gone: frozenset[str]
    """Tensors of dead sublayers."""

    def cut(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by state-dict name, sliced; those that are gone are left out."""
        kept = {name: tensor for name, tensor in tensors.items() if name not in self.gone}
        return {name: _select(tensor, self.cuts.get(name, ())) for name, tensor in kept.items()}


# ---- folding ------------------------------------------------------------------------------------------------------


def folded(model: PreTrainedModel, masks: StructureMasks) -> dict[str, Tensor]:
    """The stock state dict in fp32 on the CPU, masks multiplied into it."""
    state = {name: tensor.detach().float().cpu().clone() for name, tensor in model.state_dict().items()}
    head_size = sizes_of(model).head_size
    hidden = masks.hidden if masks.hidden is not None else torch.ones(())
    for number, block in enumerate(blocks_of(model)):
        paths, name = block.paths, block.name
        columns = masks.head[number].repeat_interleave(head_size)
        _scale(state, f"{name}.{paths.attention_out}", masks.attention[number] * hidden, columns)
        _scale(state, f"{name}.{paths.down}", masks.ffn[number] * hidden, masks.intermediate[number])
        for norm in (paths.attention_norm, paths.ffn_norm):
            _scale(state, f"{name}.{norm}", hidden)
    if masks.hidden is not None:
        _fold_stream(state, model, masks.hidden)
    return state


def _fold_stream(state: dict[str, Tensor], model: PreTrainedModel, hidden: Tensor) -> None:
    adapter = adapter_for(model.config.model_type)
    paths, base = adapter.blocks, adapter.base
    if stream_of(model).projection is not None:
        _scale(state, f"{base}.{paths.projection}", hidden)
    else:
        for path in paths.embeddings:
            state[f"{base}.{path}.weight"] *= hidden
        _scale(state, f"{base}.{paths.embedding_norm}", hidden)
    if paths.final_norm:
        _scale(state, f"{base}.{paths.final_norm}", hidden)


def _scale(state: dict[str, Tensor], module: str, rows: Tensor, columns: Tensor | None = None) -> None:
    """Multiply a Linear's or a norm's output, and a Linear's input; what the module does not have is left out."""
    if (weight := state.get(f"{module}.weight")) is not None:
        weight *= rows if columns is None and weight.dim() == 1 else rows.expand(len(weight))[:, None]
        if columns is not None:
            weight *= columns
    if (bias := state.get(f"{module}.bias")) is not None:
        bias *= rows


# ---- slicing ------------------------------------------------------------------------------------------------------


def plan_of(model: PreTrainedModel, masks: StructureMasks, dead_sublayer: DeadSublayer) -> Plan:
    """Which rows and columns of a stock model's tensors stay.

    Args:
        model: stock.
        masks: canonical.
        dead_sublayer: as for `materialise`.
    """
    sizes, cuts, gone = sizes_of(model), {}, set()
    names = list(model.state_dict())
    hidden = None if masks.hidden is None else _alive(masks.hidden)
    for number, block in enumerate(blocks_of(model)):
        heads = _alive(masks.head[number].repeat_interleave(sizes.head_size))
        dims = _alive(masks.intermediate[number])
        _plan_layer(cuts, block.name, block.paths, (heads, dims, hidden), sizes)
        drop_norm = block.paths.pre_norm or dead_sublayer == "skip"
        for alive, linears, norm in (
            (len(heads), (*block.paths.qkv, block.paths.attention_out), block.paths.attention_norm),
            (len(dims), (block.paths.up, block.paths.down), block.paths.ffn_norm),
        ):
            dead = () if alive else (*linears, *((norm,) if drop_norm else ()))
            gone |= {one for one in names if one.startswith(tuple(f"{block.name}.{path}." for path in dead))}
    if hidden is not None:
        _plan_stream(cuts, model, hidden)
    return Plan(cuts, frozenset(gone))


def _plan_layer(
    cuts: dict[str, tuple[Tensor | None, ...]],
    name: str,
    paths: Blocks,
    alive: tuple[Tensor, Tensor, Tensor | None],
    sizes: Sizes,
) -> None:
    heads, dims, hidden = alive
    width = sizes.heads * sizes.head_size
    thirds = torch.cat([heads + part * width for part in range(3)]) if len(paths.qkv) == 1 else heads
    halves = torch.cat([dims, dims + sizes.intermediate]) if paths.gated else dims
    rows_and_columns = {path: (thirds, hidden) for path in paths.qkv}
    rows_and_columns |= {paths.attention_out: (hidden, heads), paths.up: (halves, hidden), paths.down: (hidden, dims)}
    for path, (rows, columns) in rows_and_columns.items():
        cuts[f"{name}.{path}.weight"] = (rows, columns)
        cuts[f"{name}.{path}.bias"] = (rows,)
    for path in (paths.attention_norm, paths.ffn_norm):
        cuts[f"{name}.{path}.weight"] = cuts[f"{name}.{path}.bias"] = (hidden,)


def _plan_stream(cuts: dict[str, tuple[Tensor | None, ...]], model: PreTrainedModel, hidden: Tensor) -> None:
    adapter = adapter_for(model.config.model_type)
    paths, base = adapter.blocks, adapter.base
    norms = [paths.final_norm] if paths.final_norm else []
    if stream_of(model).projection is not None:
        cuts[f"{base}.{paths.projection}.weight"] = (hidden, None)
        cuts[f"{base}.{paths.projection}.bias"] = (hidden,)
    else:
        norms.append(paths.embedding_norm)
        cuts |= {f"{base}.{path}.weight": (None, hidden) for path in paths.embeddings}
    for norm in norms:
        cuts[f"{base}.{norm}.weight"] = cuts[f"{base}.{norm}.bias"] = (hidden,)
    cuts |= {f"{path}.weight": (None, hidden) for path in reader_paths(model)}


def _alive(mask: Tensor) -> Tensor:
    return (mask > 0).nonzero()[:, 0]


def _select(tensor: Tensor, indices: tuple[Tensor | None, ...]) -> Tensor:
    for dim, index in enumerate(indices):
        if index is not None:
            tensor = tensor.index_select(dim, index)
    return tensor


def put_back(full: Tensor, part: Tensor, indices: tuple[Tensor | None, ...]) -> Tensor:
    """A slice in its places of a tensor of zeros: the reverse of `Plan.cut` for one tensor."""
    if not indices:
        return part
    places = [torch.arange(size) if index is None else index for index, size in zip(indices, full.shape, strict=True)]
    return full.index_put(torch.meshgrid(*places, indexing="ij"), part)
