"""The masks of a model: hold, count, hash, pack, and keep gradients out of dropped places.

Masks live beside the model under the names of its parameters; no module or parameter is renamed or wrapped. The
alternative, a mask multiplied into every forward, costs two passes over all weights per micro-batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ofa import dist
from ofa.pruning.bits import pack_bits


class MasksDiffer(ValueError):
    """Ranks that would prune different weights."""


class MaskSet:
    """Boolean keep masks by parameter name; True means that the weight lives.

    The tensors are created once and only ever written in place, so that gradient hooks see every refresh.
    """

    def __init__(self, shapes: Mapping[str, torch.Size], device: torch.device | str = "cpu"):
        self.keep = {name: torch.ones(shape, dtype=torch.bool, device=device) for name, shape in shapes.items()}

    @classmethod
    def holding(cls, keep: Mapping[str, Tensor], device: torch.device | str = "cpu") -> MaskSet:
        """A copy of masks that are there."""
        masks = cls({name: mask.shape for name, mask in keep.items()}, device)
        masks.replace(keep)
        return masks

    def replace(self, keep: Mapping[str, Tensor]) -> tuple[int, int]:
        """Write new masks in place and return how many weights they (dropped, revived) together; reads the device
        once."""
        dropped, revived = [], []
        for name, new in keep.items():
            old = self.keep[name]
            dropped.append((old > new).sum())
            revived.append((old < new).sum())
            old.copy_(new)
        counts = torch.stack([torch.stack(dropped).sum(), torch.stack(revived).sum()]).tolist()
        return counts[0], counts[1]

    def mask_gradients(self, parameters: Mapping[str, nn.Parameter]) -> list[torch.utils.hooks.RemovableHandle]:
        """Multiply each weight's gradient by its mask before reduction, norm and clipping see it."""
        return [parameters[name].register_hook(_gradient_mask(keep)) for name, keep in self.keep.items()]

    def hash(self) -> str:
        """sha256 over names, shapes and bits; equal masks have equal hashes on every rank and machine."""
        digest = hashlib.sha256()
        for name, bits in sorted(self.packed().items()):
            digest.update(f"{name}{tuple(self.keep[name].shape)}".encode())
            digest.update(bits.tobytes())
        return digest.hexdigest()

    def digests(self) -> Tensor:
        """uint8 [tensors, 32] on the CPU: sha256 of each mask's bits."""
        rows = [list(hashlib.sha256(bits.tobytes()).digest()) for bits in self.packed().values()]
        return torch.tensor(rows, dtype=torch.uint8).view(-1, 32)

    def packed(self) -> dict[str, np.ndarray]:
        """One bit per weight, each mask as `pack` packs it; reads the device once."""
        if not self.keep:
            return {}
        bits = [pack_bits(keep.view(-1), keep.numel()) for keep in self.keep.values()]
        parts = torch.cat(bits).cpu().split([part.numel() for part in bits])
        return {name: part.numpy() for name, part in zip(self.keep, parts, strict=True)}

    def load_packed(self, packed: Mapping[str, np.ndarray]) -> None:
        """Take masks saved by `packed`.

        Raises:
            ValueError: the names are not those of this model.
        """
        if packed.keys() != self.keep.keys():
            unmatched = sorted(packed.keys() ^ self.keep.keys())
            raise ValueError(f"saved masks are of another model: {len(unmatched)} names differ, first {unmatched[0]}")
        for name, bits in packed.items():
            self.keep[name].copy_(unpack(bits, self.keep[name].shape))


def check_agreement(masks: MaskSet, ranks: dist.Ranks, when: str = "after a refresh") -> None:
    """Hold the masks of all ranks against each other (a collective call: one gather of 32 bytes a tensor).

    They are equal by construction; a fault of memory or network is not, and every later step would spread it. `when`
    is for the error.

    Raises:
        MasksDiffer: on every rank alike, naming the first tensor and which ranks hold the same.
    """
    if ranks.size == 1:
        return
    device = next(keep.device for keep in masks.keep.values())
    every = torch.stack(ranks.gather(masks.digests().to(device))).cpu()
    differs = (every != every[0]).any(dim=2).any(dim=0)
    if not differs.any():
        return
    first = int(differs.nonzero()[0])
    alike: dict[bytes, list[str]] = {}
    for rank, digest in enumerate(every[:, first]):
        alike.setdefault(bytes(digest.tolist()), []).append(str(rank))
    sides = " against ".join(f"rank{'s' * (len(held) > 1)} {', '.join(held)}" for held in alike.values())
    raise MasksDiffer(
        f"ranks hold different masks of {int(differs.sum())} tensors {when}, first {list(masks.keep)[first]}: "
        f"{sides}. A fault of hardware or network is likely; start the same command again: it continues from the last "
        "checkpoint"
    )


def pack(keep: Tensor) -> np.ndarray:
    """uint8 [ceil(numel / 8)]: bits row-major, the first weight in the highest bit (`numpy.packbits`)."""
    return np.packbits(keep.cpu().numpy())


def unpack(bits: np.ndarray, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The keep mask that `pack` packed."""
    count = int(np.prod(shape, dtype=np.int64))
    return torch.from_numpy(np.unpackbits(bits, count=count).astype(bool)).reshape(shape)


def _gradient_mask(keep: Tensor):
    def hook(gradient: Tensor) -> Tensor:
        return gradient * keep

    return hook
