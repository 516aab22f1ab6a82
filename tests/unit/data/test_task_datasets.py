"""Examples from datasets of the hub: the same as from the original files."""

import datasets
import pytest

from ofa.data.tasks import TaskError
from tests.task_tables import read, write


def test_a_dataset_says_what_the_original_files_say(tmp_path):
    """Other columns, ids for names and another order of columns; -1 where a test split has no label."""
    features = datasets.Features(
        {
            "label": datasets.ClassLabel(names=["entailment", "not_entailment"]),
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "idx": datasets.Value("int32"),
        }
    )
    columns = {"label": [1, 0], "sentence1": ["a", "b"], "sentence2": ["c", "d"], "idx": [7, 8]}
    train = datasets.Dataset.from_dict(columns, features=features)
    test = datasets.Dataset.from_dict({**columns, "label": [-1, -1]}, features=features)
    saved = tmp_path / "saved"
    datasets.DatasetDict(train=train, validation=train, test=test).save_to_disk(str(saved))
    tables = tmp_path / "tables"
    tables.mkdir()
    for name, one in (("train", train), ("validation", train), ("test", test)):
        one.to_parquet(str(tables / f"{name}-00000-of-00001.parquet"))
    original = tmp_path / "RTE"
    original.mkdir()
    rows = "index\tsentence1\tsentence2\tlabel\n7\ta\tc\tnot_entailment\n8\tb\td\tentailment\n"
    write(original, rows)
    expected = read(name="rte", path=str(original))
    assert expected.labels.tolist() == [1, 0] and expected.ids == ["7", "8"] and expected.pairs == ["c", "d"]
    for place in ({"path": str(tables)}, {"dataset": str(tables)}, {"dataset": str(saved)}):
        found = read(name="rte", **place)
        assert (found.ids, found.texts, found.pairs) == (expected.ids, expected.texts, expected.pairs)
        assert found.labels.tolist() == [1, 0]
        assert read("test", name="rte", **place).labels is None


def test_an_id_that_stands_for_no_label_is_refused_in_training(tmp_path):
    """-1 is not the last class."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [0, -1]}, features=features)
    rows.to_parquet(str(tmp_path / "train.parquet"))
    for place in ({"path": str(tmp_path)}, {"dataset": str(tmp_path)}):
        with pytest.raises(TaskError, match="row 1, column label: expected a label, found null"):
            read(**place)


def test_an_id_that_stands_for_no_label_is_refused_for_words(tmp_path):
    """-1 is not the last class there either."""
    tags = datasets.Sequence(datasets.ClassLabel(names=["a", "b"]))
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "tags": tags})
    columns = {"tokens": [["x", "y"]] * 2, "tags": [[0, 1], [0, -1]]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(tmp_path / "train.parquet"))
    for place in ({"path": str(tmp_path)}, {"dataset": str(tmp_path)}):
        with pytest.raises(TaskError, match="row 1: tags holds the class id -1, and its 2 classes have the ids 0 to 1"):
            read(name="token_classification", text_column="tokens", label_column="tags", **place)


def test_an_unknown_dataset_is_refused(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TaskError, match="task.dataset .*empty, split train: "):
        read(dataset=str(tmp_path / "empty"))
