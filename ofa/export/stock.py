"""A structurally pruned model as a folder of the stock classes, for tools that know nothing else.

Comes in: a run or model folder with a compact model. Goes out: a model folder whose config.json names a stock class; a
smaller model where its config can say the structure, else one of full size with zeros for what is gone, which is no
faster. Its answers are held against the compact model's before the folder gets its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ofa.export.hf import OF_A_COMMAND, ExportError, check_replaceable, export_model, find_model_folder
from ofa.export.masks_file import MASKS_FILE, read_masks
from ofa.export.quantization_file import QUANTIZATION_FILE
from ofa.export.recipe_file import RECIPE_FILE, read_recipe
from ofa.export.reload import auto_class
from ofa.models.adapters import scope
from ofa.models.blocks import is_compact
from ofa.models.build import load_model, read_config
from ofa.models.materialise import MaterialiseError
from ofa.models.stock_form import StockForm, padded, smaller
from ofa.pruning.mask_set import MaskSet

STOCK = "stock"
"""The form's name on the command line, and of the folder in a run."""

TOLERANCE = 1e-5
"""Of the largest output, in fp32 (COFI-29)."""


def export_stock(folder: Path, output: Path) -> dict[str, Any]:
    """Write the folder, or replace one; returns its recipe, whose `stock_form` says which form it is and why.

    Args:
        folder: a run folder or a model folder.
        output: where to.

    Raises:
        ExportError: the model has all its units, is in 8 bits, no stock class can hold it, or the stock model answers
            otherwise; something that is no exported model stands at `output`.
        OSError: the disk is full or cannot be written.
    """
    source = find_model_folder(folder)
    check_replaceable(output, OF_A_COMMAND.occupied)
    config = read_config(str(source))
    if not is_compact(config):
        raise ExportError(f"{source} is a {(config.architectures or ['stock model'])[0]} already: load it as it is")
    if (source / QUANTIZATION_FILE).exists():
        raise ExportError(f"{source} was trained in 8 bits: export it for a runtime (--format onnx or openvino)")
    compact = load_model(auto_class(config), str(source), config, "sdpa")[0].eval()
    form, words = _form(compact, source)
    check_same(compact, form.model)
    recipe = read_recipe(source) if (source / RECIPE_FILE).exists() else {"name": source.resolve().name}
    keep = _placed_masks(form, source)
    recipe |= {"stock_form": words} | _locked(recipe, keep)
    return export_model(output, form.model, source, keep, recipe, OF_A_COMMAND)


def _form(compact: PreTrainedModel, source: Path) -> tuple[StockForm, str]:
    """The smaller form where there is one, else the padded one, and which it is in words."""
    try:
        return smaller(compact), "smaller: all its layers are alike"
    except MaterialiseError as error:
        why = str(error)
    try:
        return padded(compact), f"full size, zeros for what is gone: {why}"
    except MaterialiseError as error:
        raise ExportError(
            f"{source} has no stock form: {error}. Prune anew with that, or load it as it is (trust_remote_code=True)"
        ) from None


@torch.no_grad()
def check_same(compact: PreTrainedModel, stock: PreTrainedModel, *, rows: int = 8, length: int = 8) -> None:
    """Both answer random tokens, a part of them padding, alike (rows x length).

    Raises:
        ExportError: they do not.
    """
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(compact.config.vocab_size, (rows, length), generator=draw)
    real = (torch.arange(length) < torch.linspace(length // 2, length, rows)[:, None]).long()
    expected, found = (model(input_ids=tokens, attention_mask=real).to_tuple() for model in (compact, stock))
    for one, other in zip(expected, found, strict=True):
        difference, largest = float((one - other).abs().max()), max(1.0, float(one.abs().max()))
        if not difference <= TOLERANCE * largest:
            raise ExportError(f"the stock model's answers differ by {difference:g} from the compact model's")


def _placed_masks(form: StockForm, source: Path) -> dict[str, Tensor]:
    """The masks of a sparse model in the stock one's sizes; what is gone is dropped. None of a dense model."""
    if not (source / MASKS_FILE).exists():
        return {}
    blank = {n: torch.zeros(w.shape, dtype=torch.bool) for n, w in scope(form.model).items() if n in form.gone}
    return blank | form.place(read_masks(source / MASKS_FILE))


def _locked(recipe: Mapping[str, Any], keep: Mapping[str, Tensor]) -> dict[str, Any]:
    """The lock of other masks: zeros for what is gone have no pattern but their own."""
    if not recipe.get("lock"):
        return {}
    return {"lock": {"mask_hash": MaskSet.holding(keep).hash(), "patterns": dict.fromkeys(keep, "unstructured")}}
