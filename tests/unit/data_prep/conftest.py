"""Invented text and what the tests of the whole preparation do with it."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_prep.pipeline import prepare
from ofa.config import DataPrepConfig, parse

ROOT = Path(__file__).resolve().parents[3]


def write_text(folder: Path, files: int = 4, documents: int = 40) -> None:
    """JSON lines of invented English; every tenth document is a copy of an earlier one."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 8))) for _ in range(300)]
    folder.mkdir()
    texts: list[str] = []
    for number in range(files):
        with (folder / f"{number}.jsonl").open("w") as file:
            for index in range(documents):
                sentences = (" ".join(draw.choices(words, k=draw.randint(3, 25))) for _ in range(draw.randint(1, 15)))
                texts.append(" ".join(sentence.capitalize() + "." for sentence in sentences))
                if index % 10 == 9:
                    texts[-1] = draw.choice(texts[:-1]).replace(" ", "  ")
                record = {"id": f"{number}-{index}", "text": texts[-1], "wing": f"w{len(texts) // 3}"}
                file.write(json.dumps(record) + "\n")


def config_for(folder: Path, **values) -> DataPrepConfig:
    """A small config over the text in `folder`."""
    source = {"kind": "text", "paths": [str(folder)], "group_field": "wing", **values.pop("source", {})}
    defaults = {
        "source": source,
        "tokenizer": {"vocab_size": 400},
        "sequence_length": 64,
        "validation_share": 0.2,
        "record_tokens": 2048,
        "shard_characters": 15_000,
    }
    return parse(DataPrepConfig, {**defaults, **values}, origin="test")


def run(config: DataPrepConfig, output: Path, workers: int = 2) -> dict:
    """Prepare without a progress display."""
    return prepare(config, output, workers, lambda *_: None)


def sums(folder: Path) -> dict[str, str]:
    """sha256 of every file in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A folder of invented text."""
    folder = tmp_path_factory.mktemp("corpus") / "text"
    write_text(folder)
    return folder


def start(config: DataPrepConfig, folder: Path, output: Path) -> subprocess.Popen:
    """The command line as a terminal starts it: Ctrl-C reaches it, also where the tests run in the background."""
    path = folder / "config.json"
    path.write_text(config.model_dump_json())
    command = [sys.executable, "-m", "data_prep", "--config", str(path), "--output", str(output), "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        start_new_session=True,
    )


@pytest.fixture(scope="session")
def tools():
    """The functions above."""
    return SimpleNamespace(write_text=write_text, config_for=config_for, run=run, sums=sums, start=start)
