"""Structures, random and chosen, and open probabilities for tests of structured pruning."""

from dataclasses import replace

import torch
from hypothesis import strategies as st

from ofa.downstream.cofi.gates import FAMILIES, Gates, open_probability
from ofa.models.blocks import sizes_of
from ofa.models.materialise import materialise
from ofa.models.structure import Sizes, StructureMasks
from tests.task_parts import small_model

BERT_BASE = Sizes(layers=12, heads=12, head_size=64, intermediate=3072, hidden=768)

small_sizes = st.builds(
    Sizes,
    layers=st.integers(1, 4),
    heads=st.integers(1, 4),
    head_size=st.integers(1, 6),
    intermediate=st.sampled_from([8, 16, 48]),
    hidden=st.integers(2, 12),
)
some_families = st.sets(st.sampled_from(FAMILIES), min_size=1)


def random_gates(sizes, families=FAMILIES, *, seed=0, mean=0.0, spread=3.0):
    """Gates all over their range."""
    torch.manual_seed(seed)
    return Gates(sizes, families, mean=mean, noise=spread)


@torch.no_grad()
def published_structure(gates, sizes):
    """Which units live by CoFi's rule (cofi.md 1.5): in each row as many die as are expected to, the least likely
    first. The survivors, to which it gives soft values, are 1 here."""
    alive = {}
    for name, logits in gates.of_families().items():
        rows = logits[:, None] if name in ("attention", "ffn") else logits
        dead = torch.round((1.0 - open_probability(rows)).sum(dim=-1, keepdim=True))
        rank = rows.argsort(dim=-1, stable=True).argsort(dim=-1)
        alive[name] = (rank >= dead).float().view(logits.shape)
    ones = StructureMasks.ones(sizes, hidden="hidden" in alive)
    return replace(ones, **alive).canonical()


def random_masks(sizes, *, seed=0, hidden=False, share=0.5):
    """A canonical structure of 0 and 1 in which about `share` of the units live."""
    generator = torch.Generator().manual_seed(seed)
    ones = StructureMasks.ones(sizes, hidden=hidden)
    drawn = {
        name: None if mask is None else (torch.rand(mask.shape, generator=generator) < share).float()
        for name, mask in vars(ones).items()
    }
    return StructureMasks(**drawn).canonical()


def uneven(sizes):
    """The first layer has lost its attention and the last its feed-forward network; of the other units each layer has
    other numbers, and those that live do not stand side by side."""
    assert sizes.layers >= 3 and sizes.heads >= 2, "a structure that is uneven needs 3 layers and 2 heads"
    masks = StructureMasks.ones(sizes)
    masks.attention[0] = masks.ffn[-1] = 0
    masks.head[1, ::2] = 0
    for layer in range(sizes.layers - 1):
        masks.intermediate[layer, :: layer + 2] = 0
    return masks.canonical()


def uneven_model(model_type="bert", head="classification", **changes):
    """A small compact model of that structure, in evaluation mode."""
    dense = small_model(model_type, head, num_hidden_layers=3, **changes)
    return materialise(dense, uneven(sizes_of(dense))).eval()
