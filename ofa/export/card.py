"""The README.md of an exported folder: what the model is, how sparse, how to load it and keep its zeros.

It is written from the recipe alone, so it says nothing that `recipe.json` does not hold. Its Python blocks run as they
stand; a test runs them.
"""

from __future__ import annotations

from typing import Any

from ofa.export.words import pruning_method, pruning_target

CARD_FILE = "README.md"

SPARSE_TITLE = "# {name}: sparse pre-trained {model_type}, {percent:g} % {pattern}"
DENSE_TITLE = "# {name}: pre-trained {model_type}, dense"

SPARSE_TEXT = """
A language encoder whose Linear weights are pruned to {percent:g} % zeros, once, before any task (after Prune
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

LOAD_TEXT = """
## Load

```python
from transformers import {auto}, AutoTokenizer

folder = "path/to/this/folder"
model = {auto}.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
```

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
    """Markdown text from a complete recipe (`describe_run` and `describe_weights` together)."""
    scope, sparse = recipe["scope"], recipe["pattern"] != "dense"
    config = recipe.get("config", {})
    pruning = config.get("pruning") or {}
    # With targets of their own for some tensors, what was counted says more than the target of the others.
    target = None if pruning.get("overrides") else recipe.get("target_sparsity")
    values = {
        "name": recipe.get("name", "model"),
        "model_type": scope["model_type"],
        "percent": round(100 * (target or recipe["sparsity"]["scope_sparsity"]), 4 if target else 1),
        "pattern": pruning.get("pattern", "unstructured") if sparse else "dense",
        "tensors": len(scope["tensors"]),
        "weights": scope["weights"],
        **recipe["sparsity"],
    }
    title, text = (SPARSE_TITLE, SPARSE_TEXT) if sparse else (DENSE_TITLE, DENSE_TEXT)
    with_pairs = config.get("model", {}).get("task") == "mlm_nsp"
    auto = "AutoModelForPreTraining" if with_pairs else "AutoModelForMaskedLM"
    parts = [title.format(**values), text.format(**values), "\n## Recipe\n\n" + "\n".join(recipe_lines(recipe)) + "\n"]
    parts.append(LOAD_TEXT.format(auto=auto))
    if sparse:
        parts.append(KEEP_TEXT)
    return "".join(["\n".join(parts[:1]), "\n", *parts[1:]])


def recipe_lines(recipe: dict[str, Any]) -> list[str]:
    """The recipe in a few Markdown list items; what a recipe does not hold is left out."""
    config = recipe.get("config", {})
    lines = []
    if recipe.get("steps") is not None and config:
        rows, length = config["batch"]["global_size"], config["data"]["sequence_length"]
        data = recipe["data"]["name"]
        lines.append(f"* {recipe['steps']:,} steps of {rows:,} rows of {length} tokens, data `{data}`")
        lines.append(f"* AdamW, peak learning rate {config['optimizer']['lr']:g}, {config['schedule']['decay']} decay")
    for parent in recipe.get("parents", []):
        meaning = {"init": "started from", "teacher": "learned from the dense teacher"}[parent["role"]]
        lines.append(f"* {meaning} `{parent['name']}` (sha256 of its weights {parent['fingerprint'][:16]})")
    pruning = config.get("pruning")
    if pruning:
        lines.append(f"* {pruning_method(config)}: {pruning_target(pruning)}")
        lines.append(
            f"* {pruning.get('ramp', 'cubic')} ramp over the steps {pruning['ramp_start']:,} to "
            f"{pruning['ramp_end']:,}, new masks every {pruning['frequency']:,} steps"
        )
    return [*lines, "* everything else: `recipe.json`"]
