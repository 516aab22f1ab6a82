"""Small models of each architecture and packed batches for them."""

import pytest
import torch

from ofa.config import ModelConfig
from ofa.data.batches import MicroBatch, Totals
from ofa.models.build import build_model

VOCAB = 97

SMALL = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    "roberta": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    "electra": {
        "hidden_size": 32,
        "embedding_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    },
    "modernbert": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "local_attention": 8,
        "pad_token_id": 0,
    },
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
}


def architecture_of(model_type, **changes):
    """A small architecture section."""
    small = {"model_type": model_type, "vocab_size": VOCAB, "max_position_embeddings": 48, "initializer_range": 0.3}
    return {**small, **SMALL[model_type], **changes}


def small_model(model_type="bert", *, task="mlm", seed=0, dropout=0.0, attention="sdpa", **changes):
    """A small model with weights large enough for its outputs to differ between tokens."""
    config = ModelConfig(
        architecture=architecture_of(model_type, **changes), task=task, dropout=dropout, attention=attention
    )
    return build_model(config, seed=seed)


def packed_batch(rows, length, *, pairs=False, distilled=None, vocab=VOCAB, seed=0, pad_content=0, share=0.3):
    """A micro-batch whose row r holds segments of rows[r] tokens, and its totals.

    `distilled` is None, "all" (every real token) or a share that is added to the predicted tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    size = len(rows)
    tokens = torch.full((size, length), pad_content, dtype=torch.int64)
    positions, documents, types = (torch.zeros(size, length, dtype=torch.int64) for _ in range(3))
    starts, predicted = [], []
    for row, segments in enumerate(rows):
        begin = 0
        for number, tokens_here in enumerate(segments, start=1):
            place = slice(begin, begin + tokens_here)
            tokens[row, place] = torch.randint(5, vocab, (tokens_here,), generator=generator)
            positions[row, place] = torch.arange(tokens_here)
            documents[row, place] = number
            types[row, begin + tokens_here // 2 : begin + tokens_here] = 1
            starts.append(row * length + begin)
            chosen = torch.randperm(tokens_here, generator=generator)[: max(1, round(share * tokens_here))]
            predicted += (row * length + begin + chosen).tolist()
            begin += tokens_here
    predicted = torch.tensor(sorted(predicted))
    real = documents.flatten() > 0
    kept = None
    if distilled is not None:
        kept = real.clone() if distilled == "all" else real & (torch.rand(real.shape, generator=generator) < distilled)
        kept[predicted] = True
        kept = kept.nonzero()[:, 0]
    batch = MicroBatch(
        input_ids=tokens,
        position_ids=positions,
        document_ids=documents,
        token_type_ids=types if pairs else None,
        predicted=predicted,
        labels=torch.randint(5, vocab, (len(predicted),), generator=generator),
        distilled=kept,
        pair_starts=torch.tensor(starts) if pairs else None,
        pair_labels=torch.randint(0, 2, (len(starts),), generator=generator) if pairs else None,
        row_ids=torch.arange(size),
    )
    return batch, totals_of([batch])


def totals_of(batches):
    """Counts of a global batch made of these micro-batches."""
    return Totals(
        predicted=sum(len(b.predicted) for b in batches),
        distilled=sum(len(b.predicted if b.distilled is None else b.distilled) for b in batches),
        tokens=sum(int((b.document_ids > 0).sum()) for b in batches),
        pairs=sum(0 if b.pair_starts is None else len(b.pair_starts) for b in batches),
    )


def rows_of(batch, chosen):
    """The micro-batch of some rows of another."""
    length = batch.input_ids.shape[1]

    def moved(indices):
        return torch.cat([indices[indices // length == row] - row * length + new * length for new, row in chosen_rows])

    def inside(indices):
        return torch.cat([(indices // length == row).nonzero()[:, 0] for _, row in chosen_rows])

    chosen_rows = list(enumerate(chosen))
    return MicroBatch(
        input_ids=batch.input_ids[chosen],
        position_ids=batch.position_ids[chosen],
        document_ids=batch.document_ids[chosen],
        token_type_ids=None if batch.token_type_ids is None else batch.token_type_ids[chosen],
        predicted=moved(batch.predicted),
        labels=batch.labels[inside(batch.predicted)],
        distilled=None if batch.distilled is None else moved(batch.distilled),
        pair_starts=None if batch.pair_starts is None else moved(batch.pair_starts),
        pair_labels=None if batch.pair_starts is None else batch.pair_labels[inside(batch.pair_starts)],
        row_ids=batch.row_ids[chosen],
    )


class Helpers:
    """The functions above, for tests: test modules cannot import this file."""

    VOCAB = VOCAB
    architecture_of = staticmethod(architecture_of)
    small_model = staticmethod(small_model)
    packed_batch = staticmethod(packed_batch)
    totals_of = staticmethod(totals_of)
    rows_of = staticmethod(rows_of)


@pytest.fixture(scope="session")
def make():
    """Makers of small models and batches."""
    return Helpers
