"""Corpora of random rows, real data, and tokenizers."""

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.corpora import build_run_config, write_corpus
from tests.real_data import unpacked


@pytest.fixture
def make_corpus(tmp_path):
    """make_corpus(...) -> an opened corpus of random rows."""

    def make(**wanted):
        return write_corpus(tmp_path / f"corpus{len(list(tmp_path.iterdir()))}", **wanted)

    return make


@pytest.fixture(scope="session")
def run_config():
    """run_config(...) -> RunConfig."""
    return build_run_config


@pytest.fixture(scope="session")
def glue(tmp_path_factory):
    """Folder of GLUE's original files, one folder a task."""
    return unpacked("glue_dev.tar.xz", tmp_path_factory.mktemp("glue"))


@pytest.fixture(scope="session")
def squad(tmp_path_factory):
    """Folder of SQuAD's files."""
    return unpacked("squad_dev.tar.xz", tmp_path_factory.mktemp("squad"))


@pytest.fixture(scope="session")
def bert_tokenizer(tmp_path_factory):
    """The published tokenizer of lower-cased English."""
    folder = unpacked("models_tiny.tar.xz", tmp_path_factory.mktemp("models"))
    return AutoTokenizer.from_pretrained(folder / "bert-base-uncased-tokenizer")


@pytest.fixture(scope="session")
def wordpiece():
    """A small WordPiece tokenizer; its file asks for truncation and padding, as some files do."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    text = "the quick brown fox jumps over the lazy dog, sphinx of black quartz, judge my vow; 0123456789"
    backend.train_from_iterator([text] * 3, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.enable_truncation(7)
    backend.enable_padding(length=50)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)
