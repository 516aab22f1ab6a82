"""Small parts of fine-tuning: encoders and task models of each architecture with a tokenizer, and rows for them."""

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
)

from ofa.data.task_batches import TaskBatcher
from ofa.data.task_rows import IGNORED, TaskRows
from ofa.data.task_sources import Examples
from ofa.models.adapters import scope

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("red", "green", "blue", "good", "bad", "who", "is", "the", "a", "in", ".", *"0123456789")
VOCABULARY = (*SPECIAL, *WORDS)
PAD = 0
POSITIONS = 48

KINDS = ("classification", "regression", "tokens", "questions")
HEADS = {
    "mlm": AutoModelForMaskedLM,
    "pre-training": AutoModelForPreTraining,
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
    "questions": AutoModelForQuestionAnswering,
}
_BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SIZES = {
    "bert": _BERT,
    "roberta": {**_BERT, "type_vocab_size": 1},
    "electra": {**_BERT, "embedding_size": 8},
    "modernbert": {**_BERT, "local_attention": 8},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
}
ARCHITECTURES = tuple(SIZES)


def tokenizer(words=VOCABULARY):
    """A WordPiece tokenizer of whole words."""
    backend = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def small_model(model_type="bert", head="classification", *, labels=("a", "b", "c"), seed=0, **changes):
    """A stock model with weights large enough for its outputs to differ between rows, in evaluation mode."""
    sizes = SIZES[model_type] | {"vocab_size": len(VOCABULARY), "max_position_embeddings": POSITIONS}
    values = sizes | {"initializer_range": 0.3, "pad_token_id": PAD} | changes
    config = AutoConfig.for_model(model_type, **values)
    if head == "regression":
        config.num_labels = 1
    elif head in ("classification", "tokens"):
        config.id2label, config.label2id = dict(enumerate(labels)), {name: n for n, name in enumerate(labels)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HEADS[head].from_config(config).eval()


def halved(model):
    """Drop half of a model's scoped weights; returns the masks. Nowhere else is a weight 0."""
    draw = torch.Generator().manual_seed(0)
    keep = {name: torch.rand(weight.shape, generator=draw) > 0.5 for name, weight in scope(model).items()}
    with torch.no_grad():
        for name, weight in scope(model).items():
            weight.copy_(weight.sign().add(0.5) * keep[name])
    return keep


def save_model(folder, model, words=VOCABULARY):
    """A folder as a run exports it: model and tokenizer."""
    model.save_pretrained(folder)
    tokenizer(words).save_pretrained(folder)
    return folder


def random_rows(kind, count=7, *, longest=21, labels=3, seed=0):
    """Rows of ordinary tokens between [CLS] and [SEP], with labels of a task of that kind."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(4, longest + 1, count)
    total = int(lengths.sum())
    tokens = draw.integers(len(SPECIAL), len(VOCABULARY), total).astype(np.int32)
    ends = np.cumsum(lengths)
    tokens[ends - lengths], tokens[ends - 1] = 2, 3
    values = {
        "classification": lambda: draw.integers(0, labels, count),
        "regression": lambda: draw.normal(size=count).astype(np.float32),
        "tokens": lambda: np.where(draw.random(total) < 0.4, IGNORED, draw.integers(0, labels, total)),
        "questions": lambda: np.sort(draw.integers(0, lengths[:, None], (count, 2)), axis=1),
    }[kind]()
    types = draw.integers(0, 2, total).astype(np.int8)
    words = np.flatnonzero(values != IGNORED) if kind == "tokens" else None
    return TaskRows(tokens, types, lengths, values, np.arange(count), words=words)


def word_examples(rows):
    """The examples of random rows of tokens: its words, each with a token."""
    counts = np.diff(np.searchsorted(rows.words, np.cumsum(rows.lengths)), prepend=0)
    ids = [f"id{number}" for number in range(len(rows))]
    labels = None if rows.labels is None else rows.labels[rows.words]
    return Examples(ids=ids, labels=labels, words=[["word"] * count for count in counts])


def batch_of(rows, kind, ids=None):
    """(a batch, its totals) of some rows, or of all."""
    ids = np.arange(len(rows)) if ids is None else np.asarray(ids)
    batcher = TaskBatcher(rows, kind, PAD)
    return batcher.batch(ids), batcher.totals(ids)
