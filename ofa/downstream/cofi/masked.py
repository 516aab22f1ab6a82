"""A stock model that computes with masks of structural pruning.

In: a stock transformers model with a row in the adapter table, and `StructureMasks`, new ones for every micro-batch.
Out: the same model, each unit's contribution multiplied by its mask, gradients of the masks included, until the masks
are taken out again.

    heads                     input of the attention's output projection
    intermediate dimensions   input of the down projection
    sublayers, hidden dims    output of these two projections, bias included
    hidden dimensions         embeddings before and after their norm; every norm of the residual stream (`gated_norm`)

(CoFi, Xia et al. 2022, section 2.) Modules are reached through hooks on their own forward: parameters are never read
from outside, so ZeRO 3 gathers them as always, and weights keep their names. No shape and no branch depends on a mask's
value: nothing waits for the device, ranks with other masks run the same modules, and torch.compile makes one graph for
all masks. The road not taken is to skip a dead sublayer in Python: at ZeRO 3, ranks that disagree would wait for each
other for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from ofa.downstream.cofi.gated_norm import GatedLayerNorm, NormMasks
from ofa.models.blocks import Block, Stream, blocks_of, sizes_of, stream_of
from ofa.models.cuts import DeadSublayer
from ofa.models.structure import StructureMasks


class MaskedForward:
    """Places masks in a model; `remove`, or the end of a `with` block, takes them out."""

    def __init__(self, model: PreTrainedModel, *, dead_sublayer: DeadSublayer = "skip"):
        """Change the model's forward in place; until `set` it computes what it did, to the bit.

        Args:
            model: stock; before an engine takes it.
            dead_sublayer: what a post-norm sublayer with mask 0 gives: its input ("skip", CoFi), or that behind the
                norm ("keep_norm": continuous where the mask goes to 0, and what a stock model can hold). Pre-norm
                sublayers give their input either way.

        Raises:
            AdapterError: no row for the model, or one that does not fit it.
            ValueError: the model has masks already.
        """
        self.masks: StructureMasks | None = None
        self._sizes = sizes_of(model)
        self._skips = dead_sublayer == "skip"
        self._stream = _Factor()
        self._outer_norm = NormMasks()
        self._layers: list[_LayerMasks] = []
        self._handles: list[RemovableHandle] = []
        self._norms: list[GatedLayerNorm] = []
        stream, blocks = stream_of(model), blocks_of(model)  # all that can be wrong with the model, before any change
        try:
            self._enter_stream(stream)
            for block in blocks:
                self._enter_layer(block)
        except BaseException:
            self.remove()
            raise

    def set(self, masks: StructureMasks | None) -> None:
        """Masks of every forward from now on.

        Args:
            masks: on the model's device, in any floating dtype: they are cast to that of the activations where they are
                applied. Made canonical. None: none, as the stock model.

        Raises:
            ValueError: masks of another model.
        """
        hidden = None
        if masks is not None:
            self._check(masks)
            masks = masks.canonical()
            hidden = masks.hidden
        self.masks = masks
        self._stream.value = self._outer_norm.hidden = hidden
        for layer, values in zip(self._layers, self._by_layer(masks), strict=True):
            layer.head.value, layer.intermediate.value, layer.attention.value, layer.ffn.value, attention, ffn = values
            layer.attention_norm.hidden = layer.ffn_norm.hidden = hidden
            if layer.skips:
                layer.attention_norm.sublayer, layer.ffn_norm.sublayer = attention, ffn

    def remove(self) -> None:
        """Make the model stock again: classes, hooks and forward."""
        for handle in self._handles:
            handle.remove()
        for norm in self._norms:
            norm.restore()
        self._handles, self._norms = [], []

    def __enter__(self) -> MaskedForward:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def _enter_stream(self, stream: Stream) -> None:
        """What stands around the layers."""
        if stream.projection is None:
            self._handles.append(stream.embedding_norm.register_forward_pre_hook(self._stream.scale_input))
            self._convert(stream.embedding_norm, self._outer_norm)
        else:  # the embeddings before it have a size of their own
            self._handles.append(stream.projection.register_forward_hook(self._stream.scale_output))
        if stream.final_norm is not None:
            self._convert(stream.final_norm, self._outer_norm)

    def _enter_layer(self, block: Block) -> None:
        layer = _LayerMasks(skips=self._skips and not block.paths.pre_norm)
        self._layers.append(layer)
        self._handles += [
            block.attention_out.register_forward_pre_hook(layer.head.scale_input),
            block.attention_out.register_forward_hook(layer.attention.scale_output),
            block.down.register_forward_pre_hook(layer.intermediate.scale_input),
            block.down.register_forward_hook(layer.ffn.scale_output),
        ]
        self._convert(block.attention_norm, layer.attention_norm)
        self._convert(block.ffn_norm, layer.ffn_norm)

    def _convert(self, norm: nn.Module, masks: NormMasks) -> None:
        if not isinstance(norm, nn.Identity):  # in place of the first norm of some pre-norm encoders
            self._norms.append(GatedLayerNorm.convert(norm, masks))

    def _check(self, masks: StructureMasks) -> None:
        expected = StructureMasks.ones(self._sizes, hidden=masks.hidden is not None, device="meta")
        for name, ones in vars(expected).items():
            found = getattr(masks, name)
            if ones is not None and found.shape != ones.shape:
                raise ValueError(
                    f"{name} masks of shape {list(found.shape)}, expected {list(ones.shape)}: these are masks of "
                    "another model"
                )

    def _by_layer(self, masks: StructureMasks | None) -> Iterable[tuple[Tensor | None, ...]]:
        """Of each layer: factors of the out projection's input [H h], of the down projection's [F], of the two outputs
        ([d] with hidden masks, else []), and both sublayers' masks []."""
        if masks is None:
            return [(None,) * 6] * self._sizes.layers
        heads = masks.head.repeat_interleave(self._sizes.head_size, dim=1)
        outputs = [masks.attention, masks.ffn]
        if masks.hidden is not None:
            outputs = [output[:, None] * masks.hidden for output in outputs]
        values = (heads, masks.intermediate, *outputs, masks.attention, masks.ffn)
        return zip(*(value.unbind() for value in values), strict=True)


@dataclass(eq=False)
class _Factor:
    """What the input or output of a module is multiplied by at the moment."""

    value: Tensor | None = None

    def scale_input(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """A forward pre-hook."""
        return (self._scaled(inputs[0]), *inputs[1:])

    def scale_output(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """A forward hook."""
        return self._scaled(output)

    def _scaled(self, activations: Tensor) -> Tensor:
        return activations if self.value is None else activations * self.value.to(activations.dtype)


@dataclass(eq=False)
class _LayerMasks:
    """What multiplies in one layer at the moment; each layer has its own, so that all share one compilation."""

    skips: bool
    head: _Factor = field(default_factory=_Factor)
    attention: _Factor = field(default_factory=_Factor)
    attention_norm: NormMasks = field(default_factory=NormMasks)
    intermediate: _Factor = field(default_factory=_Factor)
    ffn: _Factor = field(default_factory=_Factor)
    ffn_norm: NormMasks = field(default_factory=NormMasks)
