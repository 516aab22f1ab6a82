"""Whatever a config, a manifest or a shard holds: it is read as it is, or refused with an error of ours.

Never another exception, and never success with other content.
"""

import contextlib
import json
import math
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ofa.checkpoint import INDEX, CheckpointError, check
from ofa.config import ConfigError, DataPrepConfig, RunConfig, load, parse
from ofa.data.batches import BatchError
from ofa.data.fit import CorpusError
from ofa.data.loader import Loader
from ofa.data.manifest import checksum_of
from ofa.data.plan import PlanError
from ofa.data.rows import RowReader
from ofa.data.shards import Corpus, ShardError, read_record
from ofa.engine.settings import deepspeed_config
from ofa.recipe import Recipe
from ofa.run_files import RunFolderError
from ofa.run_folder import RunFolder
from tests.corpora import build_run_config, write_corpus
from tests.unit.mutations import at, damaged, mutated, places, values

fuzz = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

RUN = load(RunConfig, "tiny/ofa_90.json").model_dump(mode="json")
PREPARE = load(DataPrepConfig, "tiny/docstrings.json").model_dump(mode="json")


# ---- configs ----------------------------------------------------------------------------------------------------


def same(found, given):
    """Whether a config's value is what its file says; 1e6 and 1000000 are the same, true and 1 are not."""
    if isinstance(found, dict) and isinstance(given, dict):
        return all(key in found and same(found[key], value) for key, value in given.items())
    if isinstance(found, list) and isinstance(given, list):
        return len(found) == len(given) and all(map(same, found, given))
    return found == given and isinstance(found, bool) == isinstance(given, bool)


def use(config):
    """What every run does with a config before it opens anything."""
    assert parse(type(config), config.model_dump(mode="json"), origin="again") == config
    json.loads(json.dumps(config.model_dump(mode="json"), allow_nan=False))
    if isinstance(config, RunConfig):
        assert len(config.fingerprint()) == 64
        recipe = Recipe(config)
        for step in {0, recipe.total_steps // 2, recipe.total_steps}:
            knobs = recipe.at(step)
            assert math.isfinite(knobs.lr) and 0.0 <= knobs.sparsity < 1.0
        with contextlib.suppress(PlanError):
            deepspeed_config(config, 1)


@pytest.mark.parametrize(("kind", "original"), [(RunConfig, RUN), (DataPrepConfig, PREPARE)], ids=["run", "prepare"])
def test_a_config_with_one_thing_changed_is_read_as_it_is_or_refused(kind, original, tmp_path):
    read = []

    @fuzz
    @given(change=mutated(original))
    def mutate(change):
        content, path = change
        (tmp_path / "config.json").write_text(json.dumps(content))
        try:
            config = load(kind, tmp_path / "config.json")
        except ConfigError as error:
            assert "config.json" in str(error)
            return
        if path[-1] in ("base", "$schema"):
            return
        filled = {key for key in ("ce_weight", "kd_weight") if path[-1] == key}  # null means the default there
        dumped = config.model_dump(mode="json")
        assert filled or same(dumped, {key: value for key, value in content.items() if key != "$schema"}), path
        use(config)
        read.append(path)

    mutate()
    assert read, "nothing was accepted: the test tests refusals only"


@fuzz
@given(content=st.one_of(st.binary(max_size=60), values.map(lambda value: json.dumps(value).encode())))
def test_a_config_of_any_bytes_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    for kind in (RunConfig, DataPrepConfig):
        with pytest.raises(ConfigError, match="config.json"):
            load(kind, tmp_path / "config.json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig", "utf-7"])
def test_a_config_in_another_encoding_is_refused(encoding, tmp_path):
    (tmp_path / "config.json").write_bytes(json.dumps({**RUN, "seed": 1}, ensure_ascii=False).encode(encoding))
    if encoding == "utf-7":
        (tmp_path / "config.json").write_bytes("{'ä': 1}".encode(encoding))
    with pytest.raises(ConfigError, match="config.json: not (UTF-8|JSON)"):
        load(RunConfig, tmp_path / "config.json")


@pytest.mark.parametrize("depth", [19, 100, 900, 100_000])
def test_a_config_nested_without_end_is_refused(depth, tmp_path):
    text = json.dumps({**RUN, "model": {"architecture": {"model_type": "bert", "x": "DEEP"}}})
    for left, right in ("[]", ('{"a":', "}")):
        (tmp_path / "config.json").write_text(text.replace('"DEEP"', left * depth + "1" + right * depth))
        with pytest.raises(ConfigError, match="more than 20 levels"):
            load(RunConfig, tmp_path / "config.json")


@fuzz
@given(text=st.text(max_size=30))
def test_an_override_of_any_text_is_read_or_refused(text):
    for override in (text, f"optimizer.lr={text}", f"seed={text}"):
        with contextlib.suppress(ConfigError):
            use(load(RunConfig, "tiny/ofa_90.json", [override]))


# ---- manifests --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A small corpus with sentence pairs, to be copied."""
    folder = tmp_path_factory.mktemp("good") / "data"
    write_corpus(folder, rows=24, validation_rows=5, length=32, pairs=True, record_tokens=128, shards=2)
    return folder


def content(corpus):
    """All that a run reads of a corpus: every record, and the batches of two epochs."""
    records = [read_record(record) for split in ("train", "validation") for record in corpus.split(split).records]
    arrays = [array for rows in records for array in (rows.tokens, rows.rows, rows.segments, rows.second, rows.labels)]
    loader = Loader(corpus, build_run_config(32, size=8, task="mlm_nsp"))
    for step in range(6):
        totals, batches = loader.global_batch(step)
        arrays += [np.array([totals.predicted, totals.tokens])]
        arrays += [tensor.numpy() for batch in batches for tensor in vars(batch).values() if tensor is not None]
    return arrays


def equal(found, expected):
    """Whether two lists of arrays are the same."""
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


OURS = (ShardError, CorpusError, PlanError, BatchError)


@pytest.mark.parametrize("checksum", [True, False], ids=["as written", "from before there was a checksum"])
def test_a_manifest_with_one_thing_changed_gives_the_same_data_or_is_refused(good, tmp_path, checksum):
    folder = tmp_path / "data"
    shutil.copytree(good, folder)
    original = json.loads((folder / "manifest.json").read_text())
    expected = content(Corpus.open(folder))
    if not checksum:
        del original["checksum"]
    refusals = []

    @fuzz
    @given(change=mutated(original))
    def mutate(change):
        manifest, path = change
        (folder / "manifest.json").write_text(json.dumps(manifest))
        try:
            found = content(Corpus.open(folder))
        except OURS as error:
            refusals.append(error)
            return
        assert equal(found, expected), path

    mutate()
    assert refusals


def test_every_field_that_the_reader_uses_is_missed_when_it_is_gone(good, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(good, folder)
    original = json.loads((folder / "manifest.json").read_text())
    for path in places(original):
        if not path or path[0] == "checksum" or isinstance(path[-1], int):
            continue
        manifest = json.loads(json.dumps(original))
        del at(manifest, path[:-1])[path[-1]]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ShardError, match="manifest.json"):
            Corpus.open(folder)
        manifest["checksum"] = checksum_of(manifest)  # a forger's: what the reader relies on is still missed
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ShardError, match="manifest.json"):
            Corpus.open(folder)


@fuzz
@given(raw=st.binary(max_size=80))
def test_a_manifest_of_any_bytes_is_refused(raw, tmp_path):
    (tmp_path / "manifest.json").write_bytes(raw)
    with pytest.raises(ShardError, match="manifest.json"):
        Corpus.open(tmp_path)


# ---- shards -----------------------------------------------------------------------------------------------------


def read_paths(folder, handle_of):
    """Every way in which rows are read, as functions."""
    corpus = Corpus.open(folder)
    records = corpus.split("train").records
    rows = np.arange(corpus.split("train").total_rows)
    return {
        "record": lambda: [read_record(record).tokens for record in records],
        "open handle": lambda: [read_record(record, handle=handle_of(record)).tokens for record in records],
        "rows": lambda: list(RowReader(corpus.split("train"), 3).read(rows)),
        "batches": lambda: content(corpus),
    }


@pytest.mark.parametrize("opened", ["before", "after"])
def test_a_shard_that_differs_in_any_byte_gives_the_same_rows_or_is_refused(good, tmp_path, opened):
    """On every read path, whether the damage was there when the corpus was opened or came afterwards."""
    folder = tmp_path / "data"
    shutil.copytree(good, folder)
    shard = folder / "train" / "shard-00001.tar"
    original = shard.read_bytes()
    handles: dict[Path, object] = {}

    def handle_of(record):
        return handles.setdefault(record.shard, record.shard.open("rb"))

    whole = read_paths(folder, handle_of)
    expected = {name: read() for name, read in whole.items()}
    refusals = []

    @settings(fuzz, max_examples=60)
    @given(raw=damaged(original))
    def damage(raw):
        shard.write_bytes(raw)
        try:
            paths = whole if opened == "before" else read_paths(folder, handle_of)
        except ShardError as error:
            refusals.append(error)
            return
        for name, read in paths.items():
            try:
                assert equal(read(), expected[name]), name
            except ShardError as error:
                refusals.append(error)
        if raw != original:
            assert Corpus.described(folder).verify(), "verify found nothing"

    damage()
    assert refusals


def test_a_record_with_a_right_sum_and_wrong_arrays_is_refused(good, tmp_path):
    """What a forged or mistaken writer makes: the crc32 is right, the content is not."""
    folder = tmp_path / "data"
    shutil.copytree(good, folder)
    record = Corpus.open(folder).split("train").records[0]
    whole = record.shard.read_bytes()[record.offset : record.offset + record.size]
    expected = read_record(record)
    refusals = []

    @fuzz
    @given(raw=damaged(whole))
    def forge(raw):
        path = folder / "forged.tar"
        path.write_bytes(raw)
        forged = replace(record, shard=path, offset=0, size=len(raw), crc32=zlib.crc32(raw))
        try:
            found = read_record(forged)
        except ShardError as error:
            refusals.append(error)
            return
        assert len(found.rows) - 1 == record.rows and found.rows[-1] == len(found.tokens)
        assert found.tokens.dtype == expected.tokens.dtype or found.tokens.dtype == np.uint32

    forge()
    assert refusals


# ---- what a run has written ---------------------------------------------------------------------------------------


def test_a_runs_record_with_one_thing_changed_is_the_same_run_or_refused(tmp_path):
    config = load(RunConfig, "tiny/ofa_90.json")
    folder = RunFolder(tmp_path)
    folder.record(config, "data", 1, 10)
    original = json.loads(folder.config.read_text())
    refusals = []

    @fuzz
    @given(change=mutated(original))
    def mutate(change):
        record, path = change
        folder.config.write_text(json.dumps(record))
        try:
            folder.check(config, "data")
        except (RunFolderError, ConfigError) as error:
            refusals.append(error)
            return
        decisive = parse(RunConfig, record["config"], origin="x").decisive()
        assert decisive == config.decisive() and record["data_fingerprint"] == "data", path

    mutate()
    assert refusals


def test_a_checkpoints_index_with_one_thing_changed_is_the_same_or_refused(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"weights")
    original = {"step": 3, "world_size": 1, "files": {"weights.pt": [7, zlib.crc32(b"weights")]}}
    refusals = []

    @fuzz
    @given(change=mutated(original))
    def mutate(change):
        index, path = change
        (tmp_path / INDEX).write_text(json.dumps(index))
        try:
            found = check(tmp_path)
        except (CheckpointError, RunFolderError) as error:
            refusals.append(error)
            return
        assert isinstance(found["step"], int) and isinstance(found["world_size"], int), path

    mutate()
    assert refusals
