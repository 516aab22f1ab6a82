"""What a run did, in words for people: the same on the model card and in the report."""

from __future__ import annotations

from typing import Any

from ofa.data.tasks import Kind
from ofa.models.structure import units_by_layer

ALLOCATIONS = {
    "uniform": "the same fraction in every tensor",
    "erk": "divided among tensors by the Erdos-Renyi kernel rule",
    "global": "ranked over all tensors together",
}
REWINDS = {
    "prune_ofa": " with the learning rate held near its peak while pruning",
    "learning_rate": " with learning-rate rewinding",
    "weights": " with weight rewinding",
}
SEARCHES = {
    "gates": "Structured pruning by learned gates (CoFi, Xia et al., 2022)",
    "magnitude": "Structured pruning by magnitude",
}
COSTS = {
    "params": "the weights of the encoder's layers",
    "nnz": "the non-zero weights of the encoder's layers",
    "macs": "the encoder's multiply-adds",
    "latency": "the encoder's milliseconds",
}


def pruning_method(config: dict[str, Any]) -> str:
    """The method's name, from a run's config that has a pruning section."""
    pruning, rewind = config["pruning"], config["schedule"].get("rewind")
    if pruning["ramp_end"] == pruning["ramp_start"]:
        kind = "One-shot magnitude pruning"
    elif pruning.get("ramp") == "geometric":
        kind = "Iterative magnitude pruning"
    else:
        kind = "Gradual magnitude pruning"
    return kind + (REWINDS[rewind.get("policy", "prune_ofa")] if rewind else "")


def pruning_target(pruning: dict[str, Any]) -> str:
    """Sparsity, pattern and allocation, and how many overrides there are."""
    pattern, overrides = pruning.get("pattern", "unstructured"), pruning.get("overrides") or []
    shape = "single weights" if pattern == "unstructured" else f"pattern {pattern}"
    other = f"; {len(overrides)} override(s) for named tensors" if overrides else ""
    return f"{100 * pruning['sparsity']:g} %, {shape}, {ALLOCATIONS[pruning.get('allocation', 'uniform')]}{other}"


def loss_words(objective: dict[str, Any], kind: Kind) -> str:
    """The weighted terms of a fine-tuning run's loss, from its config's objective section and the kind of task."""
    terms = []
    if objective["ce_weight"]:
        terms.append(f"{objective['ce_weight']:g} x label loss")
    if objective["kd_weight"]:
        softened = "" if kind == "regression" else f" (temperature {objective['temperature']:g})"
        terms.append(f"{objective['kd_weight']:g} x distance to the teacher's outputs{softened}")
    if objective.get("layer_weight"):
        terms.append(f"{objective['layer_weight']:g} x distance to the teacher's layers")
    return " + ".join(terms)


def structure_method(asked: dict[str, Any]) -> str:
    """How a structure was found and what for, from a config's structure section."""
    return f"{SEARCHES[asked['method']]}: {100 * asked['sparsity']:g} % of {COSTS[asked['cost']]}"


def structure_text(recipe: dict[str, Any]) -> str:
    """Markdown: what is left of each layer of a structurally pruned model; nothing of another recipe."""
    numbers = recipe.get("structure")
    if not numbers:
        return ""
    cost = COSTS[recipe["config"]["structure"]["cost"]]
    rows = [f"| {layer} | {heads} | {dims:,} |" for layer, (heads, dims) in enumerate(units_by_layer(numbers), 1)]
    hidden = f"\nOf its hidden dimensions {numbers['hidden']:,} are left.\n" if "hidden" in numbers else ""
    table = "\n".join(["| layer | heads | intermediate dimensions |", "|---|---|---|", *rows])
    said = f"{numbers['structural_sparsity']:.2%} of {cost} are pruned away. What is left; 0: the sublayer is gone."
    return f"\n## Structure\n\n{said}\n\n{table}\n{hidden}"
