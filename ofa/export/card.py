"""The README.md of an exported folder: what the model is, how sparse, how to load it and keep its zeros.

It is written from the recipe alone, so it says nothing that `recipe.json` does not hold. Its Python blocks run as they
stand; a test runs them.
"""

from __future__ import annotations

from typing import Any

from ofa.data.tasks import TASKS, Kind
from ofa.export.stage import Stage, percent, recorded_stage
from ofa.export.words import loss_words, pruning_method, pruning_target, structure_method, structure_text
from ofa.models.compact import MODEL_TYPE_PREFIX
from ofa.models.task_models import AUTO_CLASSES

CARD_FILE = "README.md"

KINDS: dict[Kind, str] = {
    "classification": "text classification",
    "regression": "text regression",
    "tokens": "token classification",
    "questions": "question answering",
}

SPARSE_TITLE = "# {name}: sparse {trained}{model_type}, {percent:g} % {pattern}{origin}"
DENSE_TITLE = "# {name}: pre-trained {model_type}, dense{origin}"

SPARSE_TEXT = """
A language encoder whose Linear weights are pruned to {percent:g} % zeros{once} (after Prune
Once for All, Zafrir et al., 2021, arXiv 2111.05754). Fine-tune it with its zeros kept. The zeros stand in the weights
themselves; `masks.safetensors` says which weights live, one bit each.

| | zeros |
|---|---|
| encoder layers | {encoder_sparsity:.2%} |
| everything that was pruned ({tensors} tensors, {weights:,} weights) | {scope_sparsity:.2%} |
| whole model with embeddings, without task head | {model_sparsity:.2%} |

Embeddings, biases, LayerNorm and the masked-LM head are never pruned.
"""

DENSE_TEXT = """
A dense language encoder, trained on the corpus of the sparse models that have it as their teacher and their start.
"""

CUT_TITLE = "# {name}: pre-trained {model_type}, {cut} cut away{origin}"

CUT_TEXT = """
A language encoder out of which whole heads, feed-forward dimensions and sublayers were cut
on masked words, before any task. Fine-tune it like any encoder.
"""

TASK_TITLE = "# {name}: {task}, {model_type}, {zeros}{origin}"

TASK_TEXT = """
A {model_type} model for {kind}, task `{task}`, fine-tuned from `{init}`.
{what}
"""

LOCKED_TEXT = (
    "Every zero of that model was kept where it stood, and the other weights were trained. `masks.safetensors` says\n"
    "which weights live, one bit each."
)
PRUNED_TEXT = (
    "It was pruned on the way, for this task alone. The zeros stand in the weights themselves; `masks.safetensors`\n"
    "says which weights live, one bit each."
)
CUT_ON_THE_WAY_TEXT = (
    "Heads, feed-forward dimensions or whole sublayers of it were cut out on the way, for this task alone."
)
FREE_TEXT = "All weights were trained, and no zero was kept or made."

DRAWN_TEXT = """
Not in that model, so drawn anew and trained without zeros: {names}.
"""

ZEROS_TEXT = """
| | zeros |
|---|---|
| encoder layers | {encoder_sparsity:.2%} |
| the encoder's Linear weights and the pooler ({tensors} tensors, {weights:,} weights) | {scope_sparsity:.2%} |
| whole model with embeddings, without task head | {model_sparsity:.2%} |
"""

QUANTIZED_TEXT = """
It was trained to compute in {bits} bits: {linears} Linears{tables} have int8 weights and uint8 inputs, and of the int8
weights {zeros:.2%} are 0{attentions}. `model.safetensors` holds fp32 weights, which stock classes load as a float
model; `quantization.safetensors` holds the scales. The scores below are those in {bits} bits.
"""

IMPORTED_TEXT = """
It was imported from an {format}:
weight = weight_original * weight_mask. That training may not have ended, so masks and weights may not be final.
"""

LOAD_TEXT = """
## Load

```python
from transformers import {auto}, AutoTokenizer

folder = "path/to/this/folder"
model = {auto}.from_pretrained(folder{trust})
tokenizer = AutoTokenizer.from_pretrained(folder{trust})
```
"""

COMPACT_TEXT = """
Heads, feed-forward dimensions or whole sublayers are cut out of this model, and its layers have sizes of their own
(`structure` in config.json). `compact.py` builds the stock class and cuts it to them; it needs torch and transformers
alone, and `trust_remote_code=True` lets it run.
"""

OTHER_TEXT = """
`AutoModelForSequenceClassification`, `AutoModelForQuestionAnswering` and the other stock classes load it too.
"""

KEEP_TEXT = """
## Fine-tune and keep the zeros

Call `keep_zeros` after every optimizer step:

```python
import json

import numpy
import torch
from safetensors import safe_open

with safe_open(f"{folder}/masks.safetensors", "numpy") as file:
    shapes = json.loads(file.metadata()["shapes"])
    bits = {name: file.get_tensor(name) for name in shapes}
parameters = dict(model.named_parameters())
dropped = {
    name: torch.from_numpy(numpy.unpackbits(bits[name], count=parameters[name].numel()).reshape(shape) == 0)
    for name, shape in shapes.items()
    if name in parameters
}


@torch.no_grad()
def keep_zeros():
    for name, places in dropped.items():
        parameters[name].masked_fill_(places.to(parameters[name].device), 0.0)
```
"""


def model_card(recipe: dict[str, Any]) -> str:
    """Markdown text from a complete recipe (`describe_run` and `describe_weights` together).

    Raises:
        TargetError: the recipe's pruning section is damaged.
    """
    config, stage = recipe.get("config", {}), recorded_stage(recipe)
    sparse = recipe["pattern"] != "dense"
    values = _values(recipe, stage)
    title, text = (SPARSE_TITLE, SPARSE_TEXT) if sparse else (DENSE_TITLE, DENSE_TEXT)
    if "task" in config:
        title, text = TASK_TITLE, TASK_TEXT
        values |= _task_values(recipe, config)
    elif "structure" in config:
        title, text = CUT_TITLE, CUT_TEXT
        values["cut"] = percent(recipe["structure"]["structural_sparsity"])
    parts = [title.format(**values), "\n", stage_text(stage), text.format(**values)]
    if "task" in config:
        parts += [
            drawn_text(recipe),
            structure_text(recipe),
            ZEROS_TEXT.format(**values) if sparse else "",
            quantized_text(recipe),
            scores_text(recipe, config),
        ]
    elif "structure" in config:
        parts += [structure_text(recipe)]
        parts += ["\n", LOCKED_TEXT, "\n", ZEROS_TEXT.format(**values)] if sparse else []
    imported = recipe.get("imported")
    if imported:
        parts.append(IMPORTED_TEXT.format(**imported))
    compact = recipe["scope"]["model_type"].startswith(MODEL_TYPE_PREFIX)
    trust = ", trust_remote_code=True" if compact else ""
    load = LOAD_TEXT.format(auto=imported["auto_class"] if imported else _auto_class(config), trust=trust)
    load += COMPACT_TEXT if compact else ""
    parts += ["\n## Recipe\n\n", "\n".join(recipe_lines(recipe)), "\n", load]
    if "task" not in config:
        parts.append(OTHER_TEXT)
    if sparse:
        parts.append(KEEP_TEXT)
    return "".join(parts)


def _auto_class(config: dict[str, Any]) -> str:
    """Name of the stock class that loads the model with its head."""
    if "task" in config:
        return AUTO_CLASSES[TASKS[config["task"]["name"]].kind].__name__
    pairs = config.get("model", {}).get("task") == "mlm_nsp"
    return "AutoModelForPreTraining" if pairs else "AutoModelForMaskedLM"


def _values(recipe: dict[str, Any], stage: Stage | None) -> dict[str, Any]:
    """What stands in title and text."""
    scope, pruning = recipe["scope"], recipe.get("config", {}).get("pruning") or {}
    # While pruning goes on, or with targets of their own for some tensors, only what was counted is true.
    reached = (stage is None or stage.pruning_ended) and not pruning.get("overrides")
    target = recipe.get("target_sparsity") if reached else None
    return {
        "name": recipe.get("name", "model"),
        "model_type": scope["model_type"].removeprefix(MODEL_TYPE_PREFIX),
        "trained": "" if "imported" in recipe else "pre-trained ",
        "once": "" if "imported" in recipe else ", once, before any task",
        "percent": round(100 * (target or recipe["sparsity"]["scope_sparsity"]), 4 if target else 1),
        "pattern": pruning.get("pattern", "unstructured"),
        "origin": f", from {stage.origin}" if stage and not stage.finished else "",
        "tensors": len(scope["tensors"]),
        "weights": scope["weights"],
        **recipe["sparsity"],
    }


def _task_values(recipe: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The same of a task model."""
    what, zeros = FREE_TEXT, "all weights trained"
    cut = recipe.get("structure")
    if cut:
        what, zeros = CUT_ON_THE_WAY_TEXT, f"{percent(cut['structural_sparsity'])} of its structure pruned"
    if recipe.get("lock"):
        kept = f"{percent(_locked_sparsity(recipe))} zeros kept"
        what, zeros = (f"{CUT_ON_THE_WAY_TEXT}\n{LOCKED_TEXT}", f"{zeros}, {kept}") if cut else (LOCKED_TEXT, kept)
    elif config.get("pruning"):
        what, zeros = PRUNED_TEXT, f"pruned to {percent(recipe['sparsity']['scope_sparsity'])} zeros"
    task, init = config["task"]["name"], config["model"]["init"]
    return {"task": task, "kind": KINDS[TASKS[task].kind], "init": init, "what": what, "zeros": zeros}


def _locked_sparsity(recipe: dict[str, Any]) -> float:
    """Of the locked tensors; scoped weights that the base lacked are dense and would blur it."""
    found = [one for name, one in recipe["scope"]["tensors"].items() if name in recipe["lock"]["patterns"]]
    return sum(one["zeros"] for one in found) / sum(one["numel"] for one in found)


def drawn_text(recipe: dict[str, Any]) -> str:
    """Scoped weights of a locked model that its base did not have."""
    lock = recipe.get("lock")
    names = [name for name in recipe["scope"]["tensors"] if lock and name not in lock["patterns"]]
    return DRAWN_TEXT.format(names=", ".join(f"`{name}`" for name in names)) if names else ""


def quantized_text(recipe: dict[str, Any]) -> str:
    """What of the model is in 8 bits; nothing of a float model."""
    found = recipe.get("quantization")
    if not found:
        return ""
    tables = f" and {len(found['tables'])} embedding tables" if found["tables"] else ""
    zeros = found["int8_zeros"] / found["weights"]
    products = found["attentions"]
    attentions = f"; both products of {len(products)} attentions are in 8 bits too" if products else ""
    return QUANTIZED_TEXT.format(
        bits=found["bits"], linears=len(found["linears"]), tables=tables, zeros=zeros, attentions=attentions
    )


def scores_text(recipe: dict[str, Any], config: dict[str, Any]) -> str:
    """What the exported step scores: a table of splits and metrics."""
    scores = recipe.get("scores")
    if not scores:
        return ""
    task = TASKS[config["task"]["name"]]
    metrics = [*task.metrics, "validation_loss"]
    head = "".join(f" | {'loss' if name == 'validation_loss' else name.replace('_', ' ')}" for name in metrics)
    rows = [f"| {split}" + "".join(f" | {found[name]:.4f}" for name in metrics) for split, found in scores.items()]
    table = "\n".join([f"| split{head} |", "|---" * (1 + len(metrics)) + "|", *(f"{row} |" for row in rows)])
    percents = ". Metrics are in percent" if task.kind == "questions" else ""
    among = "scored after pruning ended" if config.get("pruning") else "that were scored"
    picked = (
        f"Step {recipe['best_step']:,} was exported: of the steps {among}, the first with the best "
        f"{task.best.replace('_', ' ')} on the\nvalidation split, so the scores of that split are of a model that was "
        f"chosen by them{percents}."
    )
    return f"\n## Scores\n\n{picked}\n\n{table}\n"


def stage_text(stage: Stage | None) -> str:
    """What a model from the middle of its run is not; nothing of a finished one."""
    if stage is None or stage.finished:
        return ""
    begin = f"\nThis is no finished model: it is from {stage.origin}."
    if stage.pruning is None:
        return f"{begin} Its weights were still trained.\n"
    if stage.pruning_ended:
        return f"{begin} Its zeros are final, its other\nweights were still trained.\n"
    return f"{begin} Its target is {stage.target}; its\nmasks and weights were still to change.\n"


def recipe_lines(recipe: dict[str, Any]) -> list[str]:
    """The recipe in a few Markdown list items; what a recipe does not hold is left out."""
    config, stage = recipe.get("config", {}), recorded_stage(recipe)
    lines = []
    if recipe.get("steps") is not None and config:
        rows, data = config["batch"]["global_size"], recipe["data"]["name"]
        length = f" of {config['data']['sequence_length']} tokens" if "data" in config else ""
        total = f" of {stage.total:,}" if stage and not stage.finished else ""
        lines.append(f"* {recipe['steps']:,}{total} steps of {rows:,} rows{length}, data `{data}`")
        lines.append(f"* AdamW, peak learning rate {config['optimizer']['lr']:g}, {config['schedule']['decay']} decay")
    if "task" in config:
        lines.append(f"* loss: {loss_words(config['objective'], TASKS[config['task']['name']].kind)}")
    for parent in recipe.get("parents", []):
        meaning = {"init": "started from", "teacher": "learned from the teacher"}[parent["role"]]
        lines.append(f"* {meaning} `{parent['name']}` (sha256 of its weights {parent['fingerprint'][:16]})")
    if "imported" in recipe:
        file, fingerprint = recipe["imported"]["file"], recipe["imported"]["fingerprint"]
        lines.append(f"* imported from `{file}` (sha256 {fingerprint[:16]})")
    pruning = config.get("pruning")
    if pruning:
        begun = ", not ended; its target" if stage and not stage.pruning_ended else ""
        lines.append(f"* {pruning_method(config)}{begun}: {pruning_target(pruning)}")
        lines.append(
            f"* {pruning.get('ramp', 'cubic')} ramp over the steps {pruning['ramp_start']:,} to "
            f"{pruning['ramp_end']:,}, new masks every {pruning['frequency']:,} steps"
        )
    if config.get("structure"):
        lines.append(f"* {structure_method(config['structure'])}")
    if "stock_form" in recipe:
        lines.append(f"* then written in a stock class: {recipe['stock_form']}")
    return [*lines, "* everything else: `recipe.json`"]
