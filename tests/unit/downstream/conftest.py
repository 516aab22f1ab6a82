"""The real SQuAD v1.1 dev file (the data folder is named by OFA_TEST_DATA), and a small model."""

import json

import pytest

from tests.real_data import unpacked
from tests.task_parts import save_model, small_model


@pytest.fixture(scope="session")
def squad_dev(tmp_path_factory):
    """(golds, contexts, ids): id -> its gold answers and id -> its context, of 10,570 questions."""
    folder = unpacked("squad_dev.tar.xz", tmp_path_factory.mktemp("squad"))
    golds, contexts = {}, {}
    for article in json.loads((folder / "dev-v1.1.json").read_text())["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                golds[question["id"]] = [answer["text"] for answer in question["answers"]]
                contexts[question["id"]] = paragraph["context"]
    assert len(golds) == 10_570
    return golds, contexts


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Folder of a small pre-trained model with its tokenizer."""
    return str(save_model(tmp_path_factory.mktemp("base"), small_model(head="pre-training")))
