"""What batches have in common: fields of tensors that are moved together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Self

import torch
from torch import Tensor


class Tensors:
    """Base of a dataclass whose fields are tensors or None."""

    def to(self, device: torch.device | str) -> Self:
        """The batch on `device`; from pinned memory the copy does not block."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin(self) -> Self:
        """The batch in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def tensors(self) -> list[Tensor]:
        """Those that are present."""
        return list(self._present().values())

    def _present(self) -> dict[str, Tensor]:
        assert is_dataclass(self)
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        changed = {name: change(value) for name, value in self._present().items()}
        return replace(self, **changed)  # pyright: ignore[reportArgumentType]
