"""`masks.safetensors`: which weights of a model live, one bit each.

One uint8 tensor per pruned parameter under the parameter's name: `numpy.packbits` of its keep mask (row-major, first
weight in the highest bit, the last byte filled with zeros). The shapes stand as JSON text in the metadata. Any
safetensors reader and numpy can use the file; no code of ours is needed. Torch's bool tensors would be eight times as
large.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from torch import Tensor

from ofa.files import write_bytes
from ofa.pruning.mask_set import pack, unpack
from ofa.sections.schedule import PATTERN

MASKS_FILE = "masks.safetensors"
SHAPES, PATTERNS = "shapes", "patterns"
"""Keys of the metadata; files of earlier versions have no patterns."""


class MaskFileError(ValueError):
    """A mask file that is missing, damaged, or of another format."""


def write_masks(path: str | Path, keep: Mapping[str, Tensor], patterns: Mapping[str, str] | None = None) -> None:
    """Write boolean keep masks by parameter name, atomically; equal masks give equal bytes.

    Args:
        path: the file.
        keep: the masks.
        patterns: as the config writes them, by parameter name; single weights where nothing is said.
    """
    write_bytes(Path(path), encode_masks(keep, patterns))


def encode_masks(keep: Mapping[str, Tensor], patterns: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a mask file."""
    names = sorted(keep)
    metadata = {
        SHAPES: json.dumps({name: list(keep[name].shape) for name in names}),
        PATTERNS: json.dumps({name: (patterns or {}).get(name, "unstructured") for name in names}),
    }
    return _with_metadata(safetensors.numpy.save({name: pack(keep[name]) for name in names}), metadata)


def read_masks(path: str | Path) -> dict[str, Tensor]:
    """Boolean keep masks by parameter name, True where the weight lives.

    Raises:
        MaskFileError: no such file, not safetensors, or bits and metadata do not belong together.
    """
    path = Path(path)
    shapes, _ = _metadata(path)
    with safetensors.safe_open(str(path), framework="numpy") as file:
        return {name: _decode(path, name, file.get_tensor(name), shapes[name]) for name in sorted(file.keys())}


def read_patterns(path: str | Path) -> dict[str, str]:
    """The pattern of each mask by parameter name.

    Raises:
        MaskFileError: as `read_masks`.
    """
    return _metadata(Path(path))[1]


def _metadata(path: Path) -> tuple[dict[str, object], dict[str, str]]:
    """Shapes and patterns, after checking that they are of the tensors in the file."""
    if not path.is_file():
        raise MaskFileError(f"{path} does not exist")
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
        shapes = json.loads(metadata[SHAPES])
        patterns = json.loads(metadata.get(PATTERNS, "null"))
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
        raise MaskFileError(f"{path} is damaged or no mask file: {error!r}") from None
    if not isinstance(shapes, dict) or shapes.keys() != names:
        raise MaskFileError(f"{path}: the shapes in its metadata name other tensors than it holds")
    patterns = dict.fromkeys(names, "unstructured") if patterns is None else patterns
    if not isinstance(patterns, dict) or patterns.keys() != names or metadata.keys() - {SHAPES, PATTERNS}:
        raise MaskFileError(f"{path}: the patterns in its metadata name other tensors than it holds")
    wrong = [text for text in patterns.values() if not (isinstance(text, str) and re.match(PATTERN, text))]
    if wrong:
        raise MaskFileError(f"{path}: {wrong[0]!r} in its metadata is no pattern")
    return shapes, patterns


def _with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with metadata in the given order; safetensors' own order of several keys differs between
    runs."""
    length = int.from_bytes(data[:8], "little")
    header = {"__metadata__": metadata, **json.loads(data[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


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
