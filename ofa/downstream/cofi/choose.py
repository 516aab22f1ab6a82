"""What a config's `structure` section asks for: the families of units, what they cost, and how a structure is found."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ofa import dist
from ofa.config import AnyCofiConfig
from ofa.downstream.cofi.budget import Costs, NonzeroCosts, mac_costs, parameter_costs
from ofa.downstream.cofi.finalise import UnitScores, check_multiple, check_target
from ofa.downstream.cofi.gates import Family, Gates
from ofa.downstream.cofi.importance import magnitude_scores
from ofa.downstream.cofi.lagrangian import GateOptimizer, Lagrangian
from ofa.downstream.cofi.latency import LatencyCosts, LatencyTable, measure_latency
from ofa.downstream.cofi.pruner import LearnedGates, MagnitudeSearch, Search
from ofa.downstream.cofi.stages import Stages
from ofa.downstream.cofi.structure import Structure
from ofa.downstream.cofi.units import LayerLinears
from ofa.engine.engine import Engine
from ofa.files import write_text
from ofa.models.adapters import adapter_for
from ofa.models.blocks import Block, blocks_of, sizes_by
from ofa.models.build import seeded
from ofa.models.structure import Sizes
from ofa.parts import DTYPES, Parts
from ofa.run_files import read_json
from ofa.run_folder import RunFolder, hardware
from ofa.sections.cofi import UnitsConfig

LOG = logging.getLogger(__name__)

LATENCY_FILE = "latency.json"
"""In a run folder: what was measured, so that a run that is continued counts with the same numbers."""

MAGNITUDE_REFRESHES = 20
"""Choices of units while the target rises."""


def families(config: AnyCofiConfig) -> tuple[Family, ...]:
    """The families of units that a run prunes."""
    asked = config.structure
    own = asked.layers and asked.method == "gates"  # by magnitude sublayers follow their units
    switches: dict[Family, bool] = {
        "head": asked.heads,
        "intermediate": asked.intermediate,
        "attention": own,
        "ffn": own,
        "hidden": asked.hidden,
    }
    return tuple(family for family, wanted in switches.items() if wanted)


def check_sizes(config: AnyCofiConfig, model: PreTrainedConfig) -> None:
    """Refuse what the sizes of a model tell to be out of reach, before there are weights.

    Raises:
        BudgetError: a multiple, or a target of a cost that sizes give.
    """
    check_multiple(sizes_by(model), config.structure.multiple)
    costs = _costs_by_sizes(config, model)
    if costs is not None:
        check_target(costs, families(config), config.structure.sparsity)


def weight_costs(model: PreTrainedConfig) -> Costs:
    """Weights of the encoder's layers."""
    return parameter_costs(sizes_by(model), gated=_is_gated(model))


def _costs_by_sizes(config: AnyCofiConfig, model: PreTrainedConfig) -> Costs | None:
    """What the target is a share of; None: that takes more than sizes."""
    if config.structure.cost == "params":
        return weight_costs(model)
    if config.structure.cost == "macs":
        return mac_costs(sizes_by(model), config.structure.length, gated=_is_gated(model))
    return None


def _is_gated(model: PreTrainedConfig) -> bool:
    return adapter_for(model.model_type).blocks.gated


def costs_of(config: AnyCofiConfig, parts: Parts, folder: RunFolder) -> Costs:
    """What the target is a share of (a collective call)."""
    model, asked = parts.model.config, config.structure
    costs = _costs_by_sizes(config, model)
    if costs is not None:
        return costs
    sizes, path = sizes_by(model), folder.path / LATENCY_FILE
    if asked.cost == "nnz":
        everything = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in parts.scoped.items()}
        masks = [linears_of(block, everything | parts.keep) for block in blocks_of(parts.model)]
        return NonzeroCosts(masks, sizes, hidden=asked.hidden)
    values = dist.on_rank_zero(lambda: _latency_of(asked, sizes, path, gated=_is_gated(model)))
    return LatencyCosts(LatencyTable(**{name: tuple(row) for name, row in values.items()}), sizes, device=dist.device())


def _latency_of(asked: UnitsConfig, sizes: Sizes, path: Path, *, gated: bool) -> dict[str, Any]:
    """The table of a run, measured when it begins, and what it was measured on."""
    here = hardware()
    if path.is_file():
        found = read_json(path)
        if found["hardware"] != here:
            LOG.warning(
                "%s was measured on %s: the run goes on with its times, and they are not those of this machine (%s)",
                path,
                found["hardware"],
                here,
            )
        return found["table"]
    LOG.info("measuring how long sublayers of each size take on this device")
    setting = {"rows": asked.rows, "length": asked.length, "precision": asked.precision}
    table = measure_latency(
        sizes,
        batch=asked.rows,
        length=asked.length,
        gated=gated,
        device=dist.device(),
        dtype=DTYPES[asked.precision],
    )
    write_text(path, json.dumps({"table": asdict(table), "setting": setting, "hardware": here}) + "\n")
    return asdict(table)


def linears_of(block: Block, tensors: Mapping[str, Tensor]) -> LayerLinears:
    """Tensors of a layer's Linears, by parameter name, as they are added up."""
    qkv, out, up, down = block.paths.qkv, block.paths.attention_out, block.paths.up, block.paths.down
    return LayerLinears(
        qkv=torch.cat([tensors[block.weight_name(path)] for path in qkv]),
        attention_out=tensors[block.weight_name(out)],
        up=tensors[block.weight_name(up)],
        down=tensors[block.weight_name(down)],
    )


def _weights_of(block: Block, engine: Engine) -> LayerLinears:
    """The fp32 weights of one layer's Linears (a collective call); one layer at a time is held, and no embedding."""
    gathered = engine.full_state_dict(block.layer)
    return linears_of(block, {f"{block.name}.{name}": weight for name, weight in gathered.items()})


def refresh_steps(stages: Stages) -> frozenset[int]:
    """Steps at which the baseline chooses units anew: evenly while the target rises, the last time where it is the
    final one."""
    every = max(1, (stages.ramp_end - stages.begin) // MAGNITUDE_REFRESHES)
    return frozenset({*range(stages.begin, stages.ramp_end, every), stages.ramp_end})


def search_of(
    config: AnyCofiConfig,
    parts: Parts,
    blocks: Sequence[Block],
    engine: Engine,
    stages: Stages,
    costs: Costs,
    structure: Structure,
) -> Search:
    """How the structure is found; gives `structure` the masks of training."""
    asked = config.structure
    if asked.method == "magnitude":

        def scores() -> UnitScores:
            return magnitude_scores((_weights_of(block, engine) for block in blocks), costs.sizes, families(config))

        search = MagnitudeSearch(
            scores,
            costs,
            steps=refresh_steps(stages),
            multiple=asked.multiple,
            now=lambda: structure.step,
            device=dist.device(),
        )
        structure.source = search
        return search
    with seeded(config.seed):
        gates = Gates(costs.sizes, families(config)).to(dist.device())
    lagrangian = Lagrangian(limit=asked.multiplier_bound).to(dist.device())
    optimizer = GateOptimizer(gates, lagrangian, costs, lr=asked.lr, ranks=dist.ranks())
    structure.source = gates
    return LearnedGates(gates, lagrangian, optimizer, costs, scale=engine.outer_scale, multiple=asked.multiple)
