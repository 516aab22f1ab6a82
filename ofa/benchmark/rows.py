"""Rows that are timed: random words without padding, a pure function of seed, sizes and vocabulary, so that models of
one vocabulary compute the same."""

from __future__ import annotations

import numpy as np
import torch

from ofa.data.task_batches import TaskBatch
from ofa.predictor import Predictor


def random_batch(predictor: Predictor, batch: int, length: int, seed: int) -> TaskBatch:
    """`batch` rows of `length` tokens, all real."""
    vocabulary, pad = predictor.model_config.vocab_size, predictor.opened.pad_id
    draw = np.random.default_rng((seed, vocabulary, batch, length))
    ids = draw.integers(vocabulary, size=(batch, length))
    ids[ids == pad] = (pad + vocabulary // 2) % vocabulary
    words = torch.from_numpy(ids)
    return TaskBatch(words, torch.ones_like(words), torch.zeros_like(words), None, torch.arange(batch))
