"""Which modules of a model are quantised, by the rows of the adapter table.

In: a stock task model, dense, sparse or compact. Out: its Linears that compute in 8 bits, each with the place whose
range its input has, and those whose output is quantised too.

Quantised are the Linears of the encoder layers and the pooler (the scope) and those outside the base model, which are
the task head; with `embeddings` the tables too, with `attention_matmuls` both products of attention. LayerNorm,
softmax, activation functions, sums and a projection of embeddings never are (prune-ofa.md section 4). The road not
taken is the published list of substrings of names ("output.dense", "value", "classifier"): on an architecture that it
does not foresee it quantises something else without a word. On BERT both say the same, which a test holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import nn
from transformers import PreTrainedModel

from ofa.config import QuantizationConfig
from ofa.export.quantization_file import OPERANDS
from ofa.models.adapters import adapter_for, has_module, scope
from ofa.models.architecture import Adapter


class PreparationError(ValueError):
    """Nothing to quantise, or a pattern that names nothing."""


@dataclass(frozen=True)
class Site:
    """A quantised Linear."""

    name: str
    """Its path."""
    module: nn.Linear
    input: str
    """Name of the place of its input; queries, keys and values have one together, for they read the same tensor."""
    output: bool
    """Whether its output is quantised too."""


@dataclass(frozen=True)
class Sites:
    """What of a model is quantised."""

    linears: tuple[Site, ...]
    tables: dict[str, nn.Embedding]
    attentions: dict[str, nn.Module] = field(default_factory=dict)
    """Modules whose products of queries and keys, and of probabilities and values, are."""

    def places(self) -> list[str]:
        """Names of the activations that have ranges."""
        inputs = dict.fromkeys(f"{site.input}.input" for site in self.linears)
        outputs = [f"{site.name}.output" for site in self.linears if site.output]
        return [*inputs, *outputs, *(f"{name}.{operand}" for name in self.attentions for operand in OPERANDS)]

    def in_words(self) -> str:
        """For the log."""
        outputs = sum(site.output for site in self.linears)
        names = ", ".join([*(site.name for site in self.linears), *self.tables])
        what = f"{len(self.linears)} Linears" + (f" ({outputs} of them with their outputs)" if outputs else "")
        what += f", {len(self.tables)} embedding tables" if self.tables else ""
        what += f", the products of {len(self.attentions)} attentions" if self.attentions else ""
        return f"{what}: {names}"


def sites_of(model: PreTrainedModel, settings: QuantizationConfig) -> Sites:
    """What the settings quantise of a model.

    Raises:
        AdapterError: no row for the model, or one that does not fit it.
        PreparationError: `exclude` names nothing, or everything.
    """
    adapter = adapter_for(model.config.model_type)
    encoder = [name.removesuffix(".weight") for name in scope(model)]
    modules = dict(model.named_modules())
    head = [n for n, m in modules.items() if isinstance(m, nn.Linear) and not n.startswith(f"{adapter.base}.")]
    linears = [_site(adapter, name, modules[name], settings.outputs and name in encoder) for name in (*encoder, *head)]
    tables = _tables(model, adapter) if settings.embeddings else {}
    kept = [site for site in linears if not _is_excluded(site.name, settings.exclude)]
    kept_tables = {name: table for name, table in tables.items() if not _is_excluded(name, settings.exclude)}
    attentions = _attentions(model, adapter) if settings.attention_matmuls else {}
    kept_attentions = {name: one for name, one in attentions.items() if not _is_excluded(name, settings.exclude)}
    _check(settings.exclude, [*(site.name for site in linears), *tables, *attentions], bool(kept))
    return Sites(_with_own_inputs(kept), kept_tables, kept_attentions)


def _site(adapter: Adapter, name: str, module: nn.Module, with_output: bool) -> Site:
    assert isinstance(module, nn.Linear), f"{name} is a {type(module).__name__}"
    layer, path = _inside(adapter, name)
    qkv = adapter.blocks.qkv
    source = f"{layer}.{qkv[0]}" if path in qkv else name
    return Site(name, module, source, with_output and path not in _not_requantised(adapter))


def _inside(adapter: Adapter, name: str) -> tuple[str, str]:
    """`bert.encoder.layer.0`, `output.dense`; for modules outside the layers nothing, and their name."""
    prefix = f"{adapter.layers}."
    if not name.startswith(prefix):
        return "", name
    number, _, path = name.removeprefix(prefix).partition(".")
    return f"{prefix}{number}", path


def _not_requantised(adapter: Adapter) -> set[str]:
    """Linears of a layer whose outputs stay as they are: what is added to the residual stream, and values."""
    blocks = adapter.blocks
    return {blocks.attention_out, blocks.down, blocks.qkv[-1]}


def _tables(model: PreTrainedModel, adapter: Adapter) -> dict[str, nn.Embedding]:
    paths = [f"{adapter.base}.{path}" for path in adapter.blocks.embeddings]
    found = {path: model.get_submodule(path) for path in paths if has_module(model, path)}
    return {path: module for path, module in found.items() if isinstance(module, nn.Embedding)}


def _attentions(model: PreTrainedModel, adapter: Adapter) -> dict[str, nn.Module]:
    """Those of the layers that have one left."""
    layers = [f"{adapter.layers}.{number}" for number, _ in model.get_submodule(adapter.layers).named_children()]
    living = [layer for layer in layers if has_module(model, f"{layer}.{adapter.blocks.qkv[0]}")]
    return {name: model.get_submodule(name) for name in (f"{layer}.{adapter.blocks.mixer}" for layer in living)}


def _is_excluded(name: str, patterns: Sequence[str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _with_own_inputs(linears: Sequence[Site]) -> tuple[Site, ...]:
    """A place is named by the first of its Linears that is quantised."""
    first: dict[str, str] = {}
    return tuple(replace(site, input=first.setdefault(site.input, site.name)) for site in linears)


def _check(patterns: Sequence[str], names: Sequence[str], anything: bool) -> None:
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise PreparationError(
                f"quantization.exclude: {pattern!r} matches none of the modules that would be quantised: "
                f"{', '.join(names[:4])} and {max(0, len(names) - 4)} more"
            )
    if not anything:
        raise PreparationError("quantization.exclude leaves no Linear to quantise: take a pattern out")
