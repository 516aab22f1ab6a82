"""The tokenizer of a corpus: loaded, or a WordPiece vocabulary trained on it; stored as `tokenizer/`.

The trainer of `tokenizers` is not deterministic by itself: it numbers the continuing characters (`##a`) in the order of
a hash map with a random seed, and breaks ties between equally frequent pairs by these numbers. Here the alphabet is
counted first and given to it, in order, as if its entries were special tokens; what remains is deterministic. The
entries are plain ones in the tokenizer that is stored.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from data_prep.documents import DataPrepError
from ofa.config import TokenizerConfig, likely
from ofa.data.shards import SPECIAL
from ofa.files import empty_folder_beside, replace_folder
from ofa.hub import is_local, unreachable

_SPECIAL_TOKENS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
_SPECIAL_TOKENS["mask_token"] = "[MASK]"

Texts = Callable[[], Iterable[str]]
"""Gives the training text anew at each call."""

_GIVE = "give a folder with a tokenizer, or a hub id such as bert-base-uncased"
"""What helps where there is none."""

_COVERED = 0.9999
"""Share of all characters that the alphabet covers; the rarest become [UNK]."""

_ALPHABET_LIMIT = 1000
"""Most characters of an alphabet, as in `tokenizers`."""


class NotFetched(DataPrepError):
    """A tokenizer of the hub, which cannot be asked for it."""


def encoder(folder: Path) -> tokenizers.Tokenizer:
    """The stored tokenizer for encoding plain text: `[MASK]` written in a text is text, not the special token."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def build(folder: Path, config: TokenizerConfig, length: int, texts: Texts) -> dict[str, Any]:
    """Write the folder, which appears when it is complete.

    Args:
        length: Longest sequence, kept in the settings of one that is trained.
        texts: Gives the training text anew at each call.

    Returns:
        `vocab_size` and `special`, the ids of the special tokens.

    Raises:
        DataPrepError: the tokenizer cannot be loaded, lacks a special token or does not take the length.
    """
    partial = empty_folder_beside(folder)
    facts = _copy_into(partial, config.init, length) if config.init else _train_into(partial, config, length, texts)
    replace_folder(partial, folder)
    return facts


def described(config: TokenizerConfig, length: int) -> str:
    """What `build` will take, tried.

    Raises:
        DataPrepError: as `build`, but for one that cannot be fetched from here.
    """
    if config.init is None:
        return f"a vocabulary of {config.vocab_size:,} to be trained on the documents"
    try:
        return f"tokenizer {config.init} with {len(_loaded(config.init, length)):,} entries"
    except NotFetched as error:  # a check may be made where there is no network, for nodes that have one
        return f"note: {error}"


def train_vocabulary(config: TokenizerConfig, texts: Texts) -> dict[str, int]:
    """A WordPiece vocabulary, the same for the same texts, whatever the number of threads."""
    raw = _raw_tokenizer(config, models.WordPiece(unk_token="[UNK]"))
    alphabet, continuing = _alphabet(raw, texts())
    first = [*_SPECIAL_TOKENS.values(), *alphabet, *continuing]
    if len(first) >= config.vocab_size:
        raise DataPrepError(
            f"tokenizer.vocab_size {config.vocab_size} does not hold the {len(first)} special tokens and characters of "
            "this corpus: choose a larger one"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        special_tokens=first,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    raw.train_from_iterator(_lines(texts()), trainer)
    return dict(sorted(raw.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1]))


def _alphabet(raw: tokenizers.Tokenizer, texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Characters that together cover nearly all text, and `##c` for those that can stand inside a word."""
    normalizer: Any = raw.normalizer
    found: Counter[str] = Counter()
    for text in texts:
        found.update(text)
    counts: Counter[str] = Counter()
    for character, count in found.items():
        for normal in normalizer.normalize_str(character):
            counts[normal] += count
    for space in [character for character in counts if character.isspace()]:
        del counts[space]
    wanted, covered, chosen = counts.total() * _COVERED, 0, []
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_ALPHABET_LIMIT]:
        if covered >= wanted:
            break
        covered += count
        chosen.append(character)
    splitter: Any = raw.pre_tokenizer
    inside = [f"##{character}" for character in sorted(chosen) if len(splitter.pre_tokenize_str(f"a{character}")) == 1]
    return sorted(chosen), inside


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Shorter strings, which the trainer can spread over threads."""
    for text in texts:
        yield from text.split("\n")


def _raw_tokenizer(config: TokenizerConfig, model: Any) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=config.lowercase)  # pyright: ignore
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore
    return tokenizer


def _train_into(
    folder: Path, config: TokenizerConfig, length: int, texts: Callable[[], Iterable[str]]
) -> dict[str, Any]:
    vocabulary = train_vocabulary(config, texts)
    tokenizer = _raw_tokenizer(config, models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(_SPECIAL_TOKENS.values()))
    ends = (("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.post_processor = processors.BertProcessing(*ends)  # pyright: ignore
    tokenizer.decoder = decoders.WordPiece()  # pyright: ignore
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": config.lowercase,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "model_max_length": length,
        **_SPECIAL_TOKENS,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    special = {name: vocabulary[_SPECIAL_TOKENS[f"{name}_token"]] for name in SPECIAL}
    return {"vocab_size": len(vocabulary), "special": special}


def _copy_into(folder: Path, init: str, length: int) -> dict[str, Any]:
    tokenizer = _loaded(init, length)
    tokenizer.save_pretrained(str(folder))
    return {"vocab_size": len(tokenizer), "special": _special(tokenizer)}


def _loaded(init: str, length: int) -> Any:
    """The tokenizer of a folder or of the hub, refused unless rows of masked-LM data can be made with it."""
    local, place = is_local(init), Path(init).expanduser()
    if local and not place.is_dir():
        raise DataPrepError(f"tokenizer {init} is no folder{_beside(place)}; {_GIVE}")
    reason = None if local else unreachable()
    from transformers import AutoTokenizer  # seconds to import, and not needed to train

    try:
        name, offline = (str(place), True) if local else (init, reason is not None)
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=offline)
    except Exception as error:  # a damaged file may break anything in its readers
        if reason is not None:
            raise NotFetched(
                f"tokenizer {init} is no folder here{_beside(place)} and not in the hub's cache, and {reason}; give a "
                f"folder, or run where there is a network before: hf download {init}"
            ) from error
        words = " ".join(str(error).split())
        raise DataPrepError(f"tokenizer {init} cannot be loaded ({words}); {_GIVE}") from error
    missing = [f"[{name.upper()}]" for name, number in _special(tokenizer).items() if number is None]
    if missing:
        raise DataPrepError(f"tokenizer {init} has no {', '.join(missing)}: masked-LM data needs one that has")
    if not tokenizer.is_fast:
        raise DataPrepError(f"tokenizer {init} has no fast form (tokenizer.json); convert it with transformers first")
    if length > tokenizer.model_max_length:  # one without a limit has a huge number there
        raise DataPrepError(
            f"sequence_length {length} is above the {tokenizer.model_max_length} tokens that tokenizer {init} and its "
            "model take (model_max_length): choose that or less; for a model with more positions, a copy of its folder "
            "with another model_max_length in tokenizer_config.json"
        )
    return tokenizer


def _special(tokenizer: Any) -> dict[str, Any]:
    return {name: getattr(tokenizer, f"{name}_token_id") for name in SPECIAL}


def _beside(place: Path) -> str:
    """The folder that was meant, if one beside it has nearly its name."""
    there = [path.name for path in place.parent.iterdir() if path.is_dir()] if place.parent.is_dir() else []
    meant = likely(place.name, there)
    return f" (did you mean {place.parent / meant}?)" if meant else ""
