"""Reads of the device, counted as a GPU would make them: each one has the host wait there.

Seen below autograd and Python, so that C++ callers count too. What a CPU cannot tell apart is a copy from a device to
the host (`tensor.to("cpu")` is nothing here): the `gpu` test asks CUDA itself.
"""

import traceback
from collections import Counter
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OPERATIONS = (
    *("_local_scalar_dense", "is_nonzero", "equal", "allclose"),
    *("nonzero", "masked_select", "bincount", "_unique", "_unique2", "unique_dim", "unique_consecutive"),
)
"""Operations whose result the host must know: a number, or a shape that depends on values."""

INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
"""Operations that do so where they are given booleans."""

METHODS = ("tolist", "numpy", "cpu")
"""Methods that reach the values without an operation."""

OUR_CODE = str(Path(__file__).resolve().parents[1] / "ofa")
WATCHED = (OUR_CODE, "/deepspeed/")


class Reads(TorchDispatchMode):
    """Reads while it is open, by whose code made them: the innermost frame of ours or of DeepSpeed."""

    def __init__(self):
        super().__init__()
        self.by_place = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, overload = str(func).split(".")[1:3]
        repeats = (name, overload) == ("repeat_interleave", "Tensor")
        if name in OPERATIONS or repeats or (name in INDEXING and _booleans(args[1])):
            self.note()
        return func(*args, **(kwargs or {}))

    def note(self):
        """Count the caller."""
        frames = [f for f in traceback.extract_stack() if any(part in f.filename for part in WATCHED)]
        place = f"{Path(frames[-1].filename).name} {frames[-1].name}" if frames else "elsewhere"
        ours = bool(frames) and frames[-1].filename.startswith(OUR_CODE)
        self.by_place["ours: " + place if ours else place] += 1

    def __enter__(self):
        self._methods = {name: getattr(torch.Tensor, name) for name in METHODS}
        for name, method in self._methods.items():
            setattr(torch.Tensor, name, self._noted(method))
        return super().__enter__()

    def _noted(self, method):
        def noting(tensor, *args, **kwargs):
            self.note()
            return method(tensor, *args, **kwargs)

        return noting

    def __exit__(self, *error):
        for name, method in self._methods.items():
            setattr(torch.Tensor, name, method)
        return super().__exit__(*error)


def _booleans(indices):
    return any(index.dtype in (torch.bool, torch.uint8) for index in tree_leaves(indices) if index is not None)


def seen(mode, work):
    """The mode after the work was done in it."""
    with mode:
        work()
    return mode
