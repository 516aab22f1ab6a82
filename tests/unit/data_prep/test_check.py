"""What `--check` says, what the command line refuses, and how soon both are over without a network."""

import bz2
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.__main__ import cores, main
from data_prep.check import found
from data_prep.documents import DataPrepError
from data_prep.tokenizer import build
from ofa.config import TokenizerConfig
from tests.dumps import dump, page

ROOT = Path(__file__).resolve().parents[3]


def said(capsys, folder, *more, **values):
    """Status and the two outputs of a check of a config over the dump in a folder."""
    source = {"kind": "mediawiki", "paths": [str(folder / "a.xml.bz2")]}
    (folder / "config.json").write_text(json.dumps({"source": source, **values}))
    status = main(["--config", str(folder / "config.json"), "--output", str(folder / "out"), "--check", *more])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def folder(tmp_path):
    """A folder with a dump."""
    pytest.importorskip("mwparserfromhell")
    (tmp_path / "a.xml.bz2").write_bytes(bz2.compress(dump([page("A", "Text.")])))
    return tmp_path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tokenizer for at most 64 tokens."""
    folder = tmp_path_factory.mktemp("tokenizers") / "small"
    build(folder, TokenizerConfig(vocab_size=40), 64, lambda: ["one two three"])
    return folder


def test_a_check_says_in_one_line_what_there_is(capsys, folder, tokenizer):
    status, out, err = said(capsys, folder, tokenizer={"init": str(tokenizer)}, sequence_length=64)
    size = (folder / "a.xml.bz2").stat().st_size
    entries = r"tokenizer \S+small with \d\d entries"
    assert status == 0 and not err
    assert re.fullmatch(f"mediawiki: 1 file of {size} bytes; {folder}/out is to be made; {entries}\n", out)
    assert not (folder / "out").exists()
    assert "a vocabulary of 8,192 to be trained on the documents" in said(capsys, folder)[1]


def test_a_length_that_the_tokenizer_does_not_take_is_refused(capsys, folder, tokenizer):
    status, _, err = said(capsys, folder, tokenizer={"init": str(tokenizer)}, sequence_length=65)
    assert status == 1 and "sequence_length 65 is above the 64 tokens" in err


def test_a_tokenizer_without_a_limit_takes_any_length(capsys, folder, tokenizer, tmp_path):
    settings = json.loads((tokenizer / "tokenizer_config.json").read_text())
    del settings["model_max_length"]
    (tmp_path / "free").mkdir()
    (tmp_path / "free" / "tokenizer.json").write_bytes((tokenizer / "tokenizer.json").read_bytes())
    (tmp_path / "free" / "tokenizer_config.json").write_text(json.dumps(settings))
    assert said(capsys, folder, tokenizer={"init": str(tmp_path / "free")}, sequence_length=100_000)[0] == 0


@pytest.mark.parametrize("kind", ["local", "hub", "dataset"])
def test_what_is_not_there_is_said_at_once_without_a_network(folder, tokenizer, kind):
    """The hub's own client would try for half a minute, and print each time."""
    config = {
        "local": {"tokenizer": {"init": f"{tokenizer.parent}/smal"}},
        "hub": {"tokenizer": {"init": "owner/nothing"}},
        "dataset": {"source": {"kind": "hub", "dataset": "owner/nothing"}, "tokenizer": {"vocab_size": 90}},
    }[kind]
    values = {"source": {"kind": "mediawiki", "paths": [str(folder / "a.xml.bz2")]}, **config}
    (folder / "config.json").write_text(json.dumps(values))
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "0"}
    line = [sys.executable, "-m", "data_prep", "--config", "config.json", "--output", "out"]
    line += ["--check"] if kind == "local" else []
    began = time.monotonic()
    environment = {**os.environ, **nowhere, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and time.monotonic() - began < 20
    errors = [line for line in done.stderr.splitlines() if not line.startswith("1 of 4")]
    assert len(errors) == 1 and errors[0].startswith("error: "), done.stderr
    words = f"is no folder (did you mean {tokenizer}?)" if kind == "local" else "http://127.0.0.1:9 cannot be reached"
    assert words in errors[0]


def test_a_check_without_a_network_says_that_the_tokenizer_was_not_tried(folder):
    source = {"kind": "mediawiki", "paths": ["a.xml.bz2"]}
    (folder / "config.json").write_text(json.dumps({"source": source, "tokenizer": {"init": "owner/nothing"}}))
    nowhere = {"HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "data_prep", "--config", "config.json", "--check"]
    done = subprocess.run(line, cwd=folder, env={**os.environ, **nowhere}, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr
    assert "; note: tokenizer owner/nothing is no folder here and not in the hub's cache, and HF_HUB_OF" in done.stdout


@pytest.mark.parametrize("given", ["--time=5", "--mem=2", "--partition=x", "--sbatch=qos=x", "--uncommitted"])
def test_options_of_jobs_are_refused_without_jobs(capsys, folder, given):
    with pytest.raises(SystemExit) as stopped:
        said(capsys, folder, given)
    assert stopped.value.code == 2 and f"{given.partition('=')[0]}: for jobs of a cluster" in capsys.readouterr().err
    if given.startswith("--time"):
        assert said(capsys, folder, given, "--cluster", "local")[0] == 0
    assert said(capsys, folder, given, "--cluster", "slurm")[0] == 0


def test_a_job_has_as_many_workers_as_it_was_given_cores(monkeypatch):
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    bound = cores()
    assert bound == len(os.sched_getaffinity(0))
    for given, expected in (("1", 1), (str(bound + 5), bound), ("", bound)):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
        assert cores() == expected


@pytest.mark.parametrize("output", ["there.json", "there.json/x"])
def test_a_file_in_the_place_of_the_output_is_refused(tools, text, tmp_path, output):
    (tmp_path / "there.json").write_text("{}")
    with pytest.raises(DataPrepError, match=r"cannot be made: .*there.json is a file; choose another --output"):
        found(tools.config_for(text), tmp_path / output)
