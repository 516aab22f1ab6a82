"""Trained and loaded tokenizers."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from data_prep.documents import DataPrepError
from data_prep.tokenizer import build, encoder
from ofa.config import TokenizerConfig
from ofa.data.shards import tokenizer_fingerprint

ROOT = Path(__file__).resolve().parents[3]


def texts() -> list[str]:
    """Invented words with many equally frequent pairs, which a trainer may break either way."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrst\u00e9\u4f60", k=draw.randint(2, 9))) for _ in range(600)]
    return [" ".join(draw.choices(words, k=40)) + ". [MASK] It's 2-3!" for _ in range(60)]


def test_training_gives_the_same_files_with_any_number_of_threads(tmp_path):
    code = (
        "import sys; from pathlib import Path; from data_prep.tokenizer import build\n"
        "from ofa.config import TokenizerConfig\n"
        "texts = Path(sys.argv[1]).read_text(encoding='utf-8').split('|')\n"
        "build(Path(sys.argv[2]), TokenizerConfig(vocab_size=300), 64, lambda: texts)\n"
    )
    (tmp_path / "texts").write_text("|".join(texts()), encoding="utf-8")
    found = []
    for number, threads in enumerate("1124"):
        target = tmp_path / str(number)
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": str(number)}
        command = [sys.executable, "-c", code, str(tmp_path / "texts"), str(target)]
        subprocess.run(command, check=True, env=environment, cwd=ROOT)
        found.append({path.name: path.read_bytes() for path in target.iterdir()})
    assert set(found[0]) == {"tokenizer.json", "tokenizer_config.json", "vocab.txt"}
    assert found[0] == found[1] == found[2] == found[3]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a trained tokenizer, and what `build` says about it."""
    folder = tmp_path_factory.mktemp("tokenizer") / "trained"
    return folder, build(folder, TokenizerConfig(vocab_size=300), 64, texts)


def test_auto_tokenizer_loads_what_was_trained(trained):
    folder, facts = trained
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    assert tokenizer.is_fast and len(tokenizer) == facts["vocab_size"] == 300
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert facts["special"] == {"cls": 2, "sep": 3, "mask": 4, "pad": 0}
    assert tokenizer.model_max_length == 64
    text = texts()[0].replace("[MASK]", "")
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == 2 and ids[-1] == 3
    assert ids[1:-1] == encoder(folder).encode(text, add_special_tokens=False).ids
    assert tokenizer("ABC")["input_ids"] == tokenizer("abc")["input_ids"]


def test_a_special_token_written_in_a_text_is_text(trained):
    folder, _ = trained
    ids = encoder(folder).encode("a [MASK] b [SEP]", add_special_tokens=False).ids
    assert not {0, 2, 3, 4} & set(ids)


def test_a_local_tokenizer_is_taken_over_as_it_is(trained, tmp_path):
    folder, facts = trained
    copied = build(tmp_path / "copy", TokenizerConfig(init=str(folder)), 64, list)
    assert copied == facts
    assert tokenizer_fingerprint(tmp_path / "copy") == tokenizer_fingerprint(folder)


def test_a_tokenizer_without_a_mask_is_refused(trained, tmp_path):
    folder, _ = trained
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    tokenizer.mask_token = None
    path = tmp_path / "maskless"
    tokenizers_own = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )
    tokenizers_own.save_pretrained(path)
    with pytest.raises(DataPrepError, match=r"maskless has no \[MASK\]"):
        build(tmp_path / "copy", TokenizerConfig(init=str(path)), 64, list)
    assert not (tmp_path / "copy").exists()


def test_a_tokenizer_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataPrepError, match="nowhere is no folder"):
        build(tmp_path / "copy", TokenizerConfig(init=str(tmp_path / "nowhere")), 64, list)


def test_a_vocabulary_smaller_than_its_alphabet_is_refused(tmp_path):
    with pytest.raises(DataPrepError, match="vocab_size 20 does not hold"):
        build(tmp_path / "small", TokenizerConfig(vocab_size=20), 64, texts)
