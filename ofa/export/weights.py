"""Reading a model folder's weights from its files alone, one tensor at a time.

Takes what the field has written: `model.safetensors`, `pytorch_model.bin` (the released Prune-OFA checkpoints; loaded
without executing pickled code), and both split into parts by an index. No model class is involved, so what is counted
here is what is on disk.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import safetensors
import torch
from torch import Tensor

SINGLE = ("model.safetensors", "pytorch_model.bin")
INDEXED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
LEGACY_NAMES = ((".gamma", ".weight"), (".beta", ".bias"))
"""LayerNorm parameters in checkpoints of the first BERT ports; transformers renames them too."""


class WeightsError(ValueError):
    """Weights that are missing or cannot be read, with the file."""


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights.

    Raises:
        WeightsError: there are none, or an index names one that is missing.
    """
    for name in SINGLE:
        if (folder / name).is_file():
            return [folder / name]
    for name in INDEXED:
        if (folder / name).is_file():
            parts = json.loads((folder / name).read_text())["weight_map"].values()
            found = [folder / part for part in sorted(set(parts))]
            missing = [path.name for path in found if not path.is_file()]
            if missing:
                raise WeightsError(f"{folder / name} names {', '.join(missing)}, which {folder} does not have")
            return found
    raise WeightsError(f"{folder} holds no weights: expected one of {', '.join(SINGLE + INDEXED)}")


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor on the CPU) for every tensor of the folder, in the files' order.

    Raises:
        WeightsError: a file is missing, cut short or damaged.
    """
    for path in weight_files(folder):
        yield from read_file(path)


def read_file(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The same for one file: .safetensors, or a pickled state dict.

    Raises:
        WeightsError: it is cut short or damaged.
    """
    try:
        yield from _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise WeightsError(f"{path} is damaged or cut short: {error}") from None


def _read_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    with safetensors.safe_open(str(path), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (not a dict)
            yield _modern(name), file.get_tensor(name)


def _read_pickle(path: Path) -> Iterator[tuple[str, Tensor]]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, tensor in state.items():
        if isinstance(tensor, Tensor):
            yield _modern(name), tensor


def _modern(name: str) -> str:
    for old, new in LEGACY_NAMES:
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
