"""What must hold between a model, its teacher and the data before anything is trained."""

from __future__ import annotations

import logging
from pathlib import Path

from transformers import PreTrainedModel

from ofa.config import ObjectiveConfig
from ofa.data.shards import Corpus, tokenizer_fingerprint
from ofa.models.adapters import adapter_for
from ofa.models.place import ModelError

LOG = logging.getLogger(__name__)

VOCABULARY_PADDING = 128
"""A model may have up to this many more entries than the tokenizer, minus one: rows added for alignment."""


def check_vocabulary(model: PreTrainedModel, corpus: Corpus) -> None:
    """Refuse a model whose vocabulary or positions cannot hold the corpus.

    Raises:
        ModelError: fewer entries than the tokenizer, so many more that it is another tokenizer's, or rows longer than
            the position embeddings.
    """
    entries, needed = model.config.vocab_size, corpus.vocab_size
    if not needed <= entries < needed + VOCABULARY_PADDING:
        raise ModelError(
            f"the model's vocabulary has {entries} entries, the tokenizer of {corpus.path} {needed}; they must be "
            f"equal (or the model padded by less than {VOCABULARY_PADDING}): set model.architecture.vocab_size, or "
            "prepare the data with the model's tokenizer"
        )
    adapter = adapter_for(model.config.model_type)
    longest = adapter.longest_sequence(model.config)
    if corpus.sequence_length > longest:
        raise ModelError(
            f"rows of {corpus.path} have up to {corpus.sequence_length} tokens, the model's position embeddings cover "
            f"{longest}: set model.architecture.max_position_embeddings or prepare shorter rows"
        )


def check_tokenizer(init: str | None, corpus: Corpus) -> None:
    """Refuse a model folder whose tokenizer is not the corpus's; a folder without tokenizer.json is let through.

    Raises:
        ModelError: the fingerprints differ.
    """
    if init is None or not (Path(init).expanduser() / "tokenizer.json").is_file():
        return
    if tokenizer_fingerprint(Path(init).expanduser()) != corpus.tokenizer_fingerprint:
        raise ModelError(
            f"the tokenizer in {init} is not the one that {corpus.path} was prepared with, so the same ids mean other "
            "words; set model.init and teacher.init to a model that was trained on this data, or prepare the data with "
            "tokenizer.init set to that folder"
        )


def check_teacher(student: PreTrainedModel, teacher: PreTrainedModel, objective: ObjectiveConfig) -> None:
    """Refuse a teacher whose outputs cannot be compared with the student's.

    Raises:
        ModelError: vocabularies differ, or hidden states are to be compared and differ in size.
    """
    ours, theirs = student.config, teacher.config
    if ours.vocab_size != theirs.vocab_size:
        raise ModelError(
            f"the teacher's vocabulary has {theirs.vocab_size} entries, the student's {ours.vocab_size}; "
            "distillation compares logits entry by entry: both must use one tokenizer"
        )
    if objective.hidden_weight and ours.hidden_size != theirs.hidden_size:
        raise ModelError(
            f"objective.hidden_weight compares hidden states, but the teacher's size is {theirs.hidden_size} and the "
            f"student's {ours.hidden_size}; set hidden_weight to 0"
        )
    theirs_longest = adapter_for(theirs.model_type).longest_sequence(theirs)
    if theirs_longest < adapter_for(ours.model_type).longest_sequence(ours):
        LOG.warning("the teacher's position embeddings cover %d tokens, fewer than the student's", theirs_longest)
