"""Datasets of the hub, from local folders."""

import json

import datasets
import pytest

from data_prep import sources
from data_prep.documents import DataPrepError
from data_prep.tally import Tally
from ofa.config import SourceConfig

ROWS = [{"id": f"n{number}", "text": f"Text {number}."} for number in range(120)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep the dataset cache of the machine out of it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def read_all(**source):
    """All documents of a dataset, in the order of its units."""
    config = SourceConfig(kind="hub", **source)
    return [one for unit in sources.units(config, 1000) for one in sources.read(config, unit, Tally())]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_local_folder_of_files_is_a_dataset(tmp_path, streaming):
    folder = tmp_path / "data"
    folder.mkdir()
    for part in range(2):
        lines = (json.dumps(row) + "\n" for row in ROWS[part * 60 : part * 60 + 60])
        (folder / f"train-{part}.jsonl").write_text("".join(lines))
    documents = read_all(dataset=str(folder), streaming=streaming)
    assert [(one.id, one.text) for one in documents] == [(row["id"], row["text"]) for row in ROWS]


def test_a_saved_dataset_is_one_too(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.hub._UNIT_ROWS", 50)
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "saved")
    assert len(sources.units(SourceConfig(kind="hub", dataset=str(tmp_path / "saved")), 1000)) == 3
    documents = read_all(dataset=str(tmp_path / "saved"))
    assert [one.text for one in documents] == [row["text"] for row in ROWS]


def test_a_dataset_that_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(DataPrepError, match="nothing.* cannot be loaded: .*; check the name"):
        read_all(dataset=str(tmp_path / "nothing"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text(json.dumps({"body": "x"}) + "\n")
    with pytest.raises(DataPrepError, match="row 0: no text in field 'text', found only body"):
        read_all(dataset=str(tmp_path / "data"))
