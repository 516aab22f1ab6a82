"""Small corpora of random rows, written with the project's own shard writer."""

import json
from pathlib import Path

import numpy as np

from ofa.config import RunConfig
from ofa.data.shards import Corpus, Segment, ShardWriter, token_dtype, tokenizer_fingerprint, write_manifest

SPECIAL = {"pad": 0, "cls": 2, "sep": 3, "mask": 4}
FIRST_ORDINARY = 5


def random_segment(draw, length, vocab_size, pairs):
    """`[CLS] ... [SEP]`, or `[CLS] A [SEP] B [SEP]` with a label."""
    tokens = draw.integers(FIRST_ORDINARY, vocab_size, length)
    tokens[0], tokens[-1] = SPECIAL["cls"], SPECIAL["sep"]
    if not pairs:
        return Segment(tokens.tolist())
    second = int(draw.integers(3, length - 1))
    tokens[second - 1] = SPECIAL["sep"]
    return Segment(tokens.tolist(), second, int(draw.integers(2)))


def random_row(draw, length, vocab_size, pairs, fill):
    """Segments that fill the row to `fill` of its length or a little more; one that fills it whole if that is None."""
    if fill is None:
        return [random_segment(draw, length, vocab_size, pairs)]
    segments, used = [], 0
    while used < fill * length:
        size = min(int(draw.integers(6, 48)), length - used)
        if size < 6:
            break
        segments.append(random_segment(draw, size, vocab_size, pairs))
        used += size
    return segments


def write_corpus(
    folder: Path,
    *,
    rows=300,
    validation_rows=23,
    length=64,
    vocab_size=200,
    pairs=False,
    record_tokens=640,
    shards=3,
    fill=0.9,
) -> Corpus:
    """A prepared folder of random rows, opened."""
    draw = np.random.default_rng(1)
    splits = {}
    for name, total in (("train", rows), ("validation", validation_rows)):
        (folder / name).mkdir(parents=True)
        entries = []
        for number, share in enumerate(np.array_split(np.arange(total), shards)):
            path = folder / name / f"shard-{number:05d}.tar"
            dtype = token_dtype(vocab_size)
            writer = ShardWriter(path, dtype, record_tokens, special=SPECIAL.values(), pairs=pairs)
            for _ in share:
                writer.add_row(random_row(draw, length, vocab_size, pairs, fill))
            entries.append(writer.close())
        splits[name] = {"shards": entries}
    write_tokenizer(folder / "tokenizer", vocab_size)
    manifest = {
        "mode": "segment_pair_nsp" if pairs else "doc_sentences",
        "sequence_length": length,
        "vocab_size": vocab_size,
        "tokenizer": {"fingerprint": tokenizer_fingerprint(folder / "tokenizer"), "special": SPECIAL},
        "splits": splits,
    }
    write_manifest(folder, manifest)
    return Corpus.open(folder)


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """A WordPiece vocabulary in which every third ordinary entry continues a word."""
    folder.mkdir()
    names = {index: f"[{name.upper()}]" for name, index in SPECIAL.items()}
    entries = {names.get(i, f"##w{i}" if i % 3 == 0 else f"w{i}"): i for i in range(vocab_size)}
    added = [{"id": index, "content": name} for index, name in names.items()]
    model = {"type": "WordPiece", "continuing_subword_prefix": "##", "vocab": entries}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": added}))


def build_run_config(length=64, *, seed=7, micro=4, size=16, kd="masked", task="mlm", **data):
    """A checked config for corpora of this file; `data` are further values of its data section."""
    data = {"path": "x", "sequence_length": length, "shuffle_window": 3, "workers": 0, **data}
    return RunConfig.model_validate(
        {
            "seed": seed,
            "model": {"architecture": {"model_type": "bert"}, "task": task},
            "data": data,
            "batch": {"global_size": size, "micro_size": micro},
            "objective": {"kd_positions": kd},
            "optimizer": {"lr": 1e-3},
            "schedule": {"total_steps": 10},
        }
    )
