"""What a masked model computes, written out slowly: the oracle of folding, slicing and hooks."""

import contextlib
import types

import torch
from torch import nn
from torch.nn import functional

from ofa.models.blocks import blocks_of, sizes_of, stream_of
from ofa.models.structure import StructureMasks


@contextlib.contextmanager
def masked(model, masks, dead_sublayer="skip"):
    """A stock model that multiplies by its masks inside, in its own precision (give it .double())."""
    masks = masks.canonical()
    own = next(model.parameters()).dtype
    hidden = None if masks.hidden is None else masks.hidden.to(own)
    ones = 1.0 if hidden is None else hidden
    handles, norms = [], []

    def before(module, factor):
        handles.append(module.register_forward_pre_hook(lambda _, args: (args[0] * factor, *args[1:])))

    def after(module, factor):
        handles.append(module.register_forward_hook(lambda _, args, out: out * factor))

    def gate(norm, alive=None):
        """Statistics over living dimensions; the input where the sublayer is dead and skipped."""
        norms.append(norm)

        def forward(self, x):
            if alive is not None and not alive:
                return x
            return ones * self._plain(x) if hidden is None else _norm_of_living(self, x, hidden)

        norm._plain = norm.forward
        norm.forward = types.MethodType(forward, norm)

    size = sizes_of(model).head_size
    for number, block in enumerate(blocks_of(model)):
        before(block.attention_out, masks.head[number].to(own).repeat_interleave(size))
        before(block.down, masks.intermediate[number].to(own))
        after(block.attention_out, masks.attention[number].to(own) * ones)
        after(block.down, masks.ffn[number].to(own) * ones)
        skips = not block.paths.pre_norm and dead_sublayer == "skip"
        for norm, own_mask in ((block.attention_norm, masks.attention), (block.ffn_norm, masks.ffn)):
            if isinstance(norm, nn.LayerNorm):
                gate(norm, bool(own_mask[number] > 0) if skips else None)
    stream = stream_of(model) if hidden is not None else None
    if stream is not None and stream.projection is not None:
        after(stream.projection, hidden)
    elif stream is not None:
        before(stream.embedding_norm, hidden)
        gate(stream.embedding_norm)
    if stream is not None and stream.final_norm is not None:
        gate(stream.final_norm)
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()
        for norm in norms:
            del norm.forward, norm._plain


def _norm_of_living(norm, x, hidden):
    alive = hidden > 0
    bias = None if norm.bias is None else norm.bias[alive]
    some = functional.layer_norm(x[..., alive], (int(alive.sum()),), norm.weight[alive], bias, norm.eps)
    out = torch.zeros_like(x)
    out[..., alive] = some
    return out * hidden


def random_masks(sizes, *, seed, hidden=False, soft=False, dead=True):
    """Masks of which about half the units live; soft ones are in [0.3, 1]; one sublayer in four is dead."""
    draw = torch.Generator().manual_seed(seed)

    def some(*shape, share=0.6):
        values = torch.rand(shape, generator=draw) * 0.7 + 0.3 if soft else torch.ones(shape)
        return values * (torch.rand(shape, generator=draw) < share)

    share = 0.75 if dead else 1.1
    made = StructureMasks(
        head=some(sizes.layers, sizes.heads),
        intermediate=some(sizes.layers, sizes.intermediate),
        attention=some(sizes.layers, share=share),
        ffn=some(sizes.layers, share=share),
        hidden=some(sizes.hidden, share=0.8) if hidden else None,
    )
    if not dead:
        made.head[:, 0] = made.intermediate[:, 0] = 1.0
    return made
