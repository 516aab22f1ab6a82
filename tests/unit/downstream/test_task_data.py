"""A task's data for a run: one fingerprint of all that is trained on, and what is refused before."""

import json
import logging
import shutil
import time
from pathlib import Path

import datasets
import pytest

from ofa.config import FinetuneConfig
from ofa.data.tasks import TaskError
from ofa.downstream import task_data
from ofa.downstream.task_data import check_ranks_agree, open_task_data, tokenizer_folder
from ofa.models.place import ModelError
from tests.task_parts import ARCHITECTURES, VOCABULARY, save_model, small_model

MNLI_LINES = [("the red is good", "the blue is bad", "neutral"), ("a red", "red", "entailment")]
MNLI_LINES += [("who is in", "the green", "contradiction"), ("0 1 2 3", "4 5 .", "neutral")]


@pytest.fixture
def mnli(write_mnli):
    """Folder of MNLI's training and matched validation files."""
    return write_mnli("train.tsv", "dev_matched.tsv")


@pytest.fixture
def write_mnli(tmp_path):
    """write_mnli(*files) -> their folder."""

    def write(*names):
        folder = tmp_path / "mnli"
        folder.mkdir(exist_ok=True)
        rows = [("sentence1", "sentence2", "gold_label"), *MNLI_LINES]
        for name in names:
            (folder / name).write_text("".join("\t".join(row) + "\n" for row in rows))
        return folder

    return write


def config_of(path, init, name="mnli", **task):
    return FinetuneConfig.model_validate(
        {
            "model": {"init": str(init)},
            "task": {"name": name, "path": path and str(path), "max_length": 24, **task},
            "batch": {"global_size": 4, "micro_size": 2},
            "optimizer": {"lr": 1e-3},
        }
    )


def print_of(path, init, **task):
    return open_task_data(config_of(path, init, **task)).fingerprint


def test_both_splits_are_read_with_the_models_tokenizer(mnli, base):
    data = open_task_data(config_of(mnli, base))
    assert (len(data.train.rows), len(data.validation.rows), data.labels[0]) == (4, 4, "entailment")
    words = data.tokenizer.convert_ids_to_tokens(data.train.rows.tokens[: data.train.rows.lengths[0]])
    assert words == ["[CLS]", "the", "red", "is", "good", "[SEP]", "the", "blue", "is", "bad", "[SEP]"]
    assert data.train.rows.labels.tolist() == [1, 0, 2, 1]
    assert data is open_task_data(config_of(mnli, base)), "what was opened last is kept"


def test_what_is_read_and_tokenised_is_said_before_it_begins_and_its_time_if_it_was_long(
    mnli, base, caplog, monkeypatch
):
    """Large tasks take minutes, in which a terminal would stand still."""

    def lines(**task):
        caplog.clear()
        open_task_data(config_of(mnli, base, **task))
        return [message for message in caplog.messages if message.startswith(("reading", "tokenising"))]

    caplog.set_level(logging.INFO, logger="ofa")
    begun = [f"reading the train split of mnli from {mnli}", "tokenising 4 rows of the train split"]
    begun += [line.replace("train", "validation") for line in begun]
    assert lines(max_length=20) == begun
    monkeypatch.setattr(task_data, "encode", slow(task_data.encode))
    monkeypatch.setattr(task_data, "WAITED_FOR", 0.05)
    assert "tokenising 4 rows of the train split took 0 s" in lines(max_length=21)
    assert "tokenising 4 rows of the validation split took 0 s" in caplog.messages


def slow(function):
    """The same, after a tenth of a second."""

    def later(*arguments):
        time.sleep(0.1)
        return function(*arguments)

    return later


def test_what_was_opened_is_not_given_to_another_run(mnli, base):
    whole, part = (open_task_data(config_of(mnli, base, train_rows=rows)) for rows in (None, 3))
    assert (len(whole.train.rows), len(part.train.rows)) == (4, 3)


def replaced(path, old, new):
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.parametrize("file", ["train.tsv", "dev_matched.tsv"])
@pytest.mark.parametrize(("old", "new"), [("who", "a"), ("contradiction", "neutral")])
def test_any_token_and_any_label_changes_the_fingerprint(mnli, base, tmp_path, file, old, new):
    before = print_of(mnli, base)
    same, other = (shutil.copytree(mnli, tmp_path / name) for name in ("same", "other"))
    replaced(other / file, old, new)
    assert print_of(same, base) == before, "where it stands is nothing to it"
    assert print_of(other, base) != before


def test_the_length_the_tokenizer_and_the_classes_change_the_fingerprint(mnli, base, tmp_path):
    before = print_of(mnli, base)
    assert print_of(mnli, base, max_length=9) != before, "it cuts a row"
    words = [*VOCABULARY[:5], *VOCABULARY[6:], VOCABULARY[5]]
    assert print_of(mnli, save_model(tmp_path / "permuted", small_model(head="mlm"), words)) != before
    assert print_of(mnli, base, labels=["neutral", "entailment", "contradiction"]) != before
    assert print_of(mnli, base, validation_rows=3) != before


def test_class_names_alone_change_the_fingerprint(base, tmp_path):
    """The rows of both are the same numbers."""
    prints = []
    for names in (("bad", "good"), ("bad", "great")):
        folder = tmp_path / names[1]
        folder.mkdir()
        for split in ("train", "dev"):
            (folder / f"{split}.csv").write_text(f"text,label\nred,{names[0]}\nblue,{names[1]}\n")
        columns = {"text_column": "text", "label_column": "label"}
        prints.append(print_of(folder, base, name="text_classification", **columns))
    assert prints[0] != prints[1]


def test_classes_are_those_of_the_training_split(base, tmp_path):
    """They stand in the task from then on, for the validation split and the model."""
    (tmp_path / "train.csv").write_text("text,label\nred,b\nblue,c\ngreen,a\n")
    (tmp_path / "dev.csv").write_text("text,label\nred,c\nblue,a\n")
    columns = {"text_column": "text", "label_column": "label"}
    data = open_task_data(config_of(tmp_path, base, name="text_classification", **columns))
    assert data.labels == ("a", "b", "c")
    assert (data.train.rows.labels.tolist(), data.validation.rows.labels.tolist()) == ([1, 2, 0], [2, 0])


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_rows_longer_than_the_models_positions_are_refused(mnli, tmp_path, model_type):
    """RoBERTa's positions begin behind that of padding."""
    init = save_model(tmp_path / "model", small_model(model_type, "mlm"))
    reach = 47 if model_type == "roberta" else 48
    longest, longer = (config_of(mnli, init, max_length=length) for length in (reach, reach + 1))
    assert open_task_data(longest).task.max_length == reach
    with pytest.raises(ModelError, match=f"task.max_length is {reach + 1} .* cover {reach} tokens: .*at most {reach}"):
        open_task_data(longer)


# ---- further validation splits --------------------------------------------------------------------------------------


def test_the_mismatched_split_is_scored_where_it_is_there(write_mnli, base):
    folder = write_mnli("train.tsv", "dev_matched.tsv", "dev_mismatched.tsv")
    (other,) = open_task_data(config_of(folder, base)).others()
    assert other.name == "validation_mismatched" and len(other.rows) == 4


def test_a_mismatched_split_that_is_not_there_is_said_and_left_out(mnli, base, caplog):
    """A run that has trained to its end does not fail for it."""
    data = open_task_data(config_of(mnli, base))
    with caplog.at_level(logging.INFO):
        assert data.others() == []
    assert "validation_mismatched" in caplog.text and "dev_mismatched.tsv" in caplog.text


def test_a_dataset_without_a_mismatched_split_has_no_other(base, tmp_path, caplog):
    columns = {
        name: [row[place] for row in MNLI_LINES] for place, name in enumerate(("premise", "hypothesis", "label"))
    }
    rows = datasets.Dataset.from_dict(columns)
    datasets.DatasetDict({"train": rows, "validation_matched": rows}).save_to_disk(str(tmp_path / "saved"))
    data = open_task_data(config_of(None, base, dataset=str(tmp_path / "saved")))
    assert data.others() == [] and "not scored on validation_mismatched" in caplog.text


def test_a_damaged_mismatched_split_is_an_error(write_mnli, base):
    folder = write_mnli("train.tsv", "dev_matched.tsv", "dev_mismatched.tsv")
    replaced(folder / "dev_mismatched.tsv", "entailment", "something")
    with pytest.raises(TaskError, match="dev_mismatched.tsv.*unknown label 'something'"):
        open_task_data(config_of(folder, base)).others()


def test_other_files_of_a_users_own_have_no_further_split(mnli, base):
    """`validation` names files: the row's others are not of the same data."""
    config = config_of(mnli, base, train=["train.tsv"], validation=["train.tsv"])
    assert open_task_data(config).others() == []


def test_tasks_with_one_validation_split_have_no_other(base, tmp_path):
    for split in ("train", "dev"):
        (tmp_path / f"{split}.tsv").write_text("sentence\tlabel\nred\t0\nblue\t1\n")
    assert open_task_data(config_of(tmp_path, base, name="sst2")).others() == []


# ---- the tokenizer's files ------------------------------------------------------------------------------------------


def test_the_tokenizers_files_are_the_models_own_where_it_has_a_folder(mnli, base, tmp_path):
    tokenizer = open_task_data(config_of(mnli, base)).tokenizer
    assert tokenizer_folder(str(base), tokenizer, tmp_path / "copy") == Path(base)
    assert not (tmp_path / "copy").exists()
    assert tokenizer_folder("someone/model", tokenizer, tmp_path / "copy") == tmp_path / "copy"
    assert json.loads((tmp_path / "copy" / "tokenizer.json").read_text())["model"]["vocab"]["red"] == 5


def test_ranks_that_read_other_data_are_named():
    check_ranks_agree(["a", "a"])
    with pytest.raises(TaskError, match="ranks 1, 3 read other task data than rank 0"):
        check_ranks_agree(["a", "b", "a", "c"])
