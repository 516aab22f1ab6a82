"""`masks.safetensors`: which weights of a model live, one bit each.

One uint8 tensor per pruned parameter under the parameter's name: `numpy.packbits` of its keep mask (row-major, first
weight in the highest bit, the last byte filled with zeros). The shapes stand as JSON text in the metadata. Any
safetensors reader and numpy can use the file; no code of ours is needed. Torch's bool tensors would be eight times as
large.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from torch import Tensor

from ofa.files import write_bytes
from ofa.pruning.mask_set import pack, unpack

MASKS_FILE = "masks.safetensors"


class MaskFileError(ValueError):
    """A mask file that is missing, damaged, or of another format."""


def write_masks(path: str | Path, keep: Mapping[str, Tensor]) -> None:
    """Write boolean keep masks by parameter name, atomically; equal masks give equal bytes."""
    path = Path(path)
    write_bytes(path, encode_masks(keep))


def encode_masks(keep: Mapping[str, Tensor]) -> bytes:
    """The bytes of a mask file."""
    names = sorted(keep)
    shapes = {name: list(keep[name].shape) for name in names}
    # a second metadata key would make the bytes differ between runs: safetensors does not sort them
    return safetensors.numpy.save({name: pack(keep[name]) for name in names}, {"shapes": json.dumps(shapes)})


def read_masks(path: str | Path) -> dict[str, Tensor]:
    """Boolean keep masks by parameter name, True where the weight lives.

    Raises:
        MaskFileError: no such file, not safetensors, or bits and shapes do not belong together.
    """
    path = Path(path)
    if not path.is_file():
        raise MaskFileError(f"{path} does not exist")
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        shapes = json.loads(metadata["shapes"])
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
        raise MaskFileError(f"{path} is damaged or no mask file: {error!r}") from None
    if not isinstance(shapes, dict) or shapes.keys() != packed.keys():
        raise MaskFileError(f"{path}: the shapes in its metadata name other tensors than it holds")
    return {name: _decode(path, name, packed[name], shapes[name]) for name in sorted(packed)}


def _decode(path: Path, name: str, bits: np.ndarray, shape: object) -> Tensor:
    """One keep mask, after checking that bits and shape belong together."""
    if not isinstance(shape, list) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise MaskFileError(f"{path}: {name} has no valid shape: {shape}")
    numel = int(np.prod(shape, dtype=np.int64))
    if bits.dtype != np.uint8 or bits.shape != (-(-numel // 8),):
        raise MaskFileError(
            f"{path}: {name} of shape {shape} needs {-(-numel // 8)} bytes, found {bits.dtype} {list(bits.shape)}"
        )
    if np.unpackbits(bits)[numel:].any():
        raise MaskFileError(f"{path}: {name} has bits set beyond its {numel} weights")
    return unpack(bits, tuple(shape))
