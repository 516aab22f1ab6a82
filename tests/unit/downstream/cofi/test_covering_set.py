"""From gates to a saved compact model, over architectures, depths and kinds of structures: every two values of two
factors meet in a row of the table."""

import copy
from itertools import combinations, product
from typing import NamedTuple

import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from ofa.downstream.cofi.budget import mac_costs, parameter_costs
from ofa.downstream.cofi.finalise import UnitScores, finalise, reachable
from ofa.downstream.cofi.layer_distillation import LayerDistillation
from ofa.downstream.cofi.masked import MaskedForward
from ofa.downstream.cofi.matching import chosen_layers
from ofa.downstream.cofi.recorder import LayerRecorder
from ofa.models.adapters import adapter_for
from ofa.models.blocks import sizes_of
from ofa.models.materialise import MaterialiseError, materialise, prunable_parameters
from ofa.models.stock_form import padded
from ofa.models.structure import StructureMasks
from ofa.models.task_training import task_logits
from tests.structures import random_gates
from tests.task_parts import ARCHITECTURES, KINDS, batch_of, random_rows, small_model

SUBLAYERS = ("attention", "ffn")
FACTORS = {
    "model_type": ARCHITECTURES,
    "layers": (4, 6, 12),
    "families": (
        ("head", "intermediate", *SUBLAYERS),
        ("head", "intermediate"),
        ("head",),
        ("intermediate",),
        SUBLAYERS,
    ),
    "hidden": (False, True),
    "dead_sublayer": ("skip", "keep_norm"),
    "soft": (False, True),
    "kind": KINDS,
    "attention": ("sdpa", "eager"),
}
AUTO = {
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
    "questions": AutoModelForQuestionAnswering,
}


class Case(NamedTuple):
    """A value of each factor."""

    model_type: str
    layers: int
    families: tuple
    hidden: bool
    dead_sublayer: str
    soft: bool
    kind: str
    attention: str


def pairs_of(case):
    """((factor, value), (factor, value)) of every two factors."""
    return set(combinations(zip(FACTORS, case, strict=True), 2))


def every_pair():
    """All that there are."""
    return {
        ((one, a), (other, b))
        for one, other in combinations(FACTORS, 2)
        for a, b in product(FACTORS[one], FACTORS[other])
    }


def covering_set():
    """Rows that cover every pair, found greedily: a row begins with a pair that is missing, and takes of each other
    factor the value that brings most missing pairs."""
    missing, rows = every_pair(), []
    while missing:
        row = dict(min(missing, key=repr))
        for factor, values in FACTORS.items():
            if factor not in row:
                gains = [_gain({**row, factor: value}, missing) for value in values]
                row[factor] = values[gains.index(max(gains))]
        rows.append(Case(**row))
        missing -= pairs_of(rows[-1])
    return rows


def _gain(row, missing):
    ordered = [(factor, row[factor]) for factor in FACTORS if factor in row]
    return len(set(combinations(ordered, 2)) & missing)


CASES = covering_set()
over_the_set = pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: str(CASES[number]))


def test_every_pair_of_values_is_covered_by_few_rows():
    assert set().union(*map(pairs_of, CASES)) == every_pair()
    assert 25 <= len(CASES) <= 40 < len(list(product(*FACTORS.values())))


def model_of(case, seed):
    """A stock model with biases and norms of its own."""
    changes = {"num_hidden_layers": case.layers, "attn_implementation": case.attention}
    model = small_model(case.model_type, case.kind, seed=seed, **changes)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return model


def costs_of(model):
    """Weights."""
    return parameter_costs(sizes_of(model), gated=adapter_for(model.config.model_type).blocks.gated)


def structure_of(case, model, seed):
    """What is made of random gates at 6 tenths of what can go; survivors soft on request."""
    families = (*case.families, "hidden") if case.hidden else case.families
    costs = costs_of(model)
    scores = UnitScores.of(random_gates(sizes_of(model), families, seed=seed).open_probabilities(), families)
    masks = finalise(scores, costs, 0.6 * reachable(costs, families)[1])
    if not case.soft:
        return masks
    draw = torch.Generator().manual_seed(seed)
    softened = {
        name: None if mask is None else mask * (0.3 + 0.7 * torch.rand(mask.shape, generator=draw))
        for name, mask in vars(masks).items()
    }
    return StructureMasks(**softened)


def logits_of(model, case):
    """Of a batch with padding."""
    batch, _ = batch_of(random_rows(case.kind), case.kind)
    with torch.no_grad():
        return task_logits(model, case.kind, batch)


def close(found, wanted, bound=1e-5):
    """Relative to the largest logit."""
    return float((found.double() - wanted.double()).abs().max()) <= bound * max(1.0, float(wanted.abs().max()))


@over_the_set
def test_masked_and_cut_out_models_compute_the_same_and_are_counted_alike(number):
    """COFI-6, 9, 15, 25, 26, 27, 31: logits in float64, weights in tensors; the budget is met within one unit."""
    case = CASES[number]
    model = model_of(case, number)
    masks, costs, sizes = structure_of(case, model, number), costs_of(model), sizes_of(model)
    exact = not case.soft and case.model_type != "modernbert"  # folded in fp32; rotations are fp32 in any dtype
    whole = copy.deepcopy(model).double()
    with MaskedForward(whole, dead_sublayer=case.dead_sublayer) as masked:
        masked.set(masks)
        wanted = logits_of(whole, case)
    compact = materialise(model, masks, case.dead_sublayer)
    assert close(logits_of(compact, case), wanted)
    assert close(logits_of(compact.double(), case), wanted, 1e-10 if exact else 1e-5)
    assert float((logits_of(model, case) - wanted).abs().max()) > 1e-3, "the structure changes nothing"
    assert prunable_parameters(compact) == costs.of(masks) < costs.total == prunable_parameters(model)
    assert costs.of(StructureMasks.ones(sizes, hidden=case.hidden)) == costs.total
    families = (*case.families, "hidden") if case.hidden else case.families
    over = float(costs.sparsity(costs.of(masks))) - 0.6 * reachable(costs, families)[1]
    assert -1e-9 <= over <= _largest_unit(families, model) / costs.total
    macs = mac_costs(sizes, 16, gated=adapter_for(case.model_type).blocks.gated)
    assert 0 < macs.of(masks) < macs.total


def _largest_unit(families, model):
    """Weights that the last unit to die may have had."""
    sizes, costs = sizes_of(model), costs_of(model)
    lone = StructureMasks.ones(sizes)
    masks = {"head": (0, 0), "intermediate": (0, 0), "attention": 0, "ffn": 0}
    found = 0.0
    for family in families:
        if family == "hidden":
            found = max(found, float(costs.total) / sizes.hidden)
            continue
        without = copy.deepcopy(lone)
        getattr(without, family)[masks[family]] = 0
        found = max(found, float(costs.total - costs.of(without.canonical())))
    return found


@over_the_set
def test_open_masks_change_no_bit_and_a_student_like_its_teacher_learns_nothing(number):
    """COFI-19, 31, 34."""
    case = CASES[number]
    model = model_of(case, number)
    expected, recorder = logits_of(model, case), LayerRecorder(model)
    with MaskedForward(model, dead_sublayer=case.dead_sublayer) as masked:
        masked.set(StructureMasks.ones(sizes_of(model)))
        assert torch.equal(logits_of(model, case), expected)
    states = recorder.take()
    assert len(states) == case.layers
    teacher = torch.stack([states[layer] for layer in chosen_layers(case.layers, "even", seed=0, step=0)])
    module, alive = LayerDistillation(sizes_of(model).hidden, sizes_of(model).hidden), torch.ones(case.layers).bool()
    batch, _ = batch_of(random_rows(case.kind), case.kind)
    loss, alignment = module(states, teacher, batch.attention_mask, alive, "monotone")
    assert loss.item() == 0.0 and alignment.diff().gt(0).all()


@over_the_set
def test_a_compact_model_is_saved_loaded_and_saved_again_to_the_same_bytes(number, tmp_path):
    """COFI-28, 31; and COFI-29: the padded twin is the same function, or says why there is none."""
    case = CASES[number]
    model = model_of(case, number)
    masks = structure_of(case, model, number)
    compact = materialise(model, masks, case.dead_sublayer)
    compact.save_pretrained(tmp_path / "one")
    loaded = AUTO[case.kind].from_pretrained(tmp_path / "one", attn_implementation=case.attention)
    loaded.save_pretrained(tmp_path / "two")
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and one.keys() == {"config.json", "model.safetensors", "compact.py"}
    assert close(logits_of(loaded, case), logits_of(compact, case), 1e-6)
    canonical = masks.canonical()
    dead = bool((canonical.attention == 0).any() or (canonical.ffn == 0).any())
    skips = dead and case.dead_sublayer == "skip" and not adapter_for(case.model_type).blocks.pre_norm
    if skips or (masks.hidden is not None and not bool(masks.hidden.all())):
        with pytest.raises(MaterialiseError, match="hidden dimensions are gone|gone and skipped"):
            padded(loaded)
    else:
        assert close(logits_of(padded(loaded).model, case), logits_of(compact, case))
