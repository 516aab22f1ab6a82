"""torch.compile, layer by layer.

In: stock models. Out: the same models, whose encoder layers run as compiled code; names, classes, state-dict keys and
hooks stay. All layers of a kind share one compilation, because their weights are inputs of the graph, so it takes as
long as for one layer; most models have one kind, those whose first layer is unlike the others have two. A student in
training, a student in evaluation and a frozen teacher are traced apart: what they have to save for a backward differs.
So is each batch shape, of which a run has two or three.

The road not taken is compiling the whole model: its backward hands out all gradients at its end, so the engine could
reduce none of them beside it, and compiling takes a time that grows with the layers.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

from ofa import dist
from ofa.config import EngineConfig
from ofa.models.adapters import encoder_layers

LOG = logging.getLogger(__name__)

VARIANTS = 128
"""Compilations of a layer that may live side by side. A layer is compiled whole or not at all, so that exceeding the
limit is an error; PyTorch's limit of 8 is near what a run with several shapes of validation batches can need, and the
layers of a compact model each have sizes of their own."""


class CompileError(ValueError):
    """This machine cannot compile."""


def compile_layers(models: Iterable[PreTrainedModel], *, device: torch.device | str, backend: str = "inductor") -> None:
    """Make each encoder layer of the models compiled code from its next call on, in place.

    Nothing is compiled yet but one line, to see that the machine can.

    Args:
        device: where the layers will run.
        backend: of torch.compile.

    Raises:
        CompileError: no working compiler.
    """
    check_compiler(torch.device(device).type, backend)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    for model in models:
        layers = encoder_layers(model)
        for layer in layers:
            layer.compile(fullgraph=True, dynamic=False, backend=backend)
        LOG.info("%d encoder layers are compiled at their first call", len(layers))


def compile_if_asked(engine: EngineConfig, models: Iterable[PreTrainedModel]) -> None:
    """`compile_layers` for the device of this process, where a run's config wants it."""
    if engine.compile:
        compile_layers(models, device=dist.device())


@functools.cache
def check_compiler(device_type: str, backend: str = "inductor") -> None:
    """Compile and run one line on a kind of device.

    Raises:
        CompileError: it failed, for example because there is no C++ compiler.
    """
    try:
        torch.compile(lambda x: x.sin() + 1.0, fullgraph=True, dynamic=False, backend=backend)(
            torch.zeros(8, device=device_type)
        )
    except RuntimeError as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        needed = "a C++ compiler (g++ or clang++, or CXX set)" if device_type == "cpu" else "triton and a C compiler"
        raise CompileError(
            f"engine.compile is true but torch.compile does not work on this machine's {device_type}: {reason}. It "
            f"needs {needed}; install it, or set engine.compile to false"
        ) from error
