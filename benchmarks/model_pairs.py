"""How long two encoders take for the same rows, at several batch sizes: a dense one and what pruning has left of it.

In: two transformers models on one device. Out: milliseconds of each and the median of the ratios of neighbours. Both
are called alike, in turns, in fp32, on full rows without padding; what differs between them is their structure alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ofa.models.adapters import shape
from ofa.models.compact import PREFIX
from ofa.timing import interleaved, percentiles, ratios, timed

BATCHES = (1, 8, 32)


@dataclass(frozen=True)
class Setting:
    """How they are measured."""

    length: int
    """Tokens of a row."""
    rounds: int
    """In which each is timed once."""
    device: str = "cpu"
    dtype: str = "float32"
    padding: str = "none"
    warm_up: int = 1
    """Rounds before those that count."""

    def described(self, dense: PreTrainedModel) -> dict[str, Any]:
        """All that a time depends on beside model and machine."""
        attention, threads = dense.config._attn_implementation, torch.get_num_threads()
        return {**asdict(self), "attention": attention, "threads": threads, "dense": "stock transformers"}


def check_alike(dense: PreTrainedModel, pruned: PreTrainedModel) -> None:
    """Refuse two models whose times would differ by more than their structure.

    Raises:
        ValueError: says by what.
    """
    if not type(dense).__module__.startswith("transformers."):
        raise ValueError(f"the dense model is a {type(dense).__name__}: expected a stock class of transformers")
    for what, found in {
        "heads of class": [type(model).__name__.removeprefix(PREFIX) for model in (dense, pruned)],
        "numbers of type": (dense.dtype, pruned.dtype),
        "attention": (dense.config._attn_implementation, pruned.config._attn_implementation),
        "sizes": (shape(dense.config), shape(pruned.config)),
    }.items():
        if found[0] != found[1]:
            raise ValueError(f"dense and pruned model have {what} {found[0]} and {found[1]}: expected the same")


def times(dense: PreTrainedModel, pruned: PreTrainedModel, batch: int, setting: Setting) -> dict[str, Any]:
    """Of both at one batch size, keys ending in `_batchN`: `speedup`, the median of `ratios`, and `dense_ms` and
    `pruned_ms`, the middle and the tail.

    Raises:
        ValueError: see `check_alike`.
    """
    check_alike(dense, pruned)
    inputs = rows(dense, batch, setting)
    works = {
        name: lambda _, model=model: timed(lambda: model(input_ids=inputs), setting.device)
        for name, model in (("dense", dense), ("pruned", pruned))
    }
    with torch.inference_mode():
        interleaved(works, setting.warm_up)
        found = interleaved(works, setting.rounds)
    speedups = ratios(found["dense"], found["pruned"])
    return {
        f"speedup_batch{batch}": speedups["median"],
        f"ratios_batch{batch}": speedups,
        **{f"{name}_ms_batch{batch}": percentiles(seconds) for name, seconds in found.items()},
    }


def rows(model: PreTrainedModel, batch: int, setting: Setting) -> Tensor:
    """[batch, length] random words of the model's vocabulary, always the same, none of them padding."""
    vocab, draw = model.config.vocab_size, torch.Generator().manual_seed(1)
    words = torch.randint(vocab, (batch, setting.length), generator=draw)
    words[words == model.config.pad_token_id] = vocab // 2
    return words.to(setting.device)


def in_words(setting: Mapping[str, Any]) -> str:
    """For the last line of a report."""
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in setting.items())
