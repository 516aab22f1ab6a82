"""Questions over contexts, from files and datasets."""

import json

import pytest

from ofa.data.tasks import TaskError
from tests.task_tables import read, write, write_rows


def test_squad_is_read_whole(squad):
    dev = read("validation", name="squad", path=str(squad))
    assert len(dev) == 10570 and len(set(dev.contexts)) == 2067 and min(map(len, dev.answers)) >= 1
    for context, answers in zip(dev.contexts, dev.answers, strict=True):
        assert all(context[one.start :].startswith(one.text) for one in answers)
    train = read(name="squad", path=str(squad), train=["squadshifts*.json", "train*.json"])
    assert len(train) == 17823 + 4370


def article(*questions, context="The cat sat."):
    qas = [{"id": f"q{number}", "question": "Who?", **one} for number, one in enumerate(questions)]
    return json.dumps({"version": "x", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}]})


CAT = {"answers": [{"text": "cat", "answer_start": 4}, {"text": "The cat", "answer_start": 0}]}


def test_both_versions_and_the_hub_give_the_same_questions(tmp_path):
    impossible = {"answers": [], "is_impossible": True, "plausible_answers": [{"text": "cat", "answer_start": 4}]}
    write(tmp_path, article(CAT, impossible), "train-v2.0.json")
    files = read(name="squad_v2", path=str(tmp_path))
    assert files.ids == ["q0", "q1"] and files.questions == ["Who?"] * 2 and files.contexts == ["The cat sat."] * 2
    assert files.answers == [(("cat", 4), ("The cat", 0)), ()]
    answers = [{"text": ["cat", "The cat"], "answer_start": [4, 0]}, {"text": [], "answer_start": []}]
    rows = [(f"q{number}", "Who?", "The cat sat.", one) for number, one in enumerate(answers)]
    hub = tmp_path / "hub"
    hub.mkdir()
    write_rows(hub / "train-00000-of-00001.parquet", rows, "parquet", ("id", "question", "context", "answers"))
    for place in ({"path": str(hub)}, {"dataset": str(hub)}):
        found = read(name="squad_v2", **place)
        assert (found.ids, found.answers) == (files.ids, files.answers)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            article({"answers": [{"text": "cat", "answer_start": 5}]}),
            'question q0: answer "cat" is not at character 5 .*"at "',
        ),
        (article({"answers": [{"text": "cat", "answer_start": -8}]}), "is not at character -8"),
        (article(CAT, {"answers": []}), "question q1: no answer; .* the task squad_v2"),
        (article({"answers": [{"text": "cat"}]}), "answers need text and answer_start"),
        (article({"id": None, **CAT}), "expected text in 'id', found null"),
        (article(CAT, {**CAT, "id": "q0"}), "the question's id q0 was there before"),
        ('{"data": [{"text": 1}]}', "not SQuAD's layout .*; expected data"),
        ('{"data": \n[', "train-v1.1.json, line 2: not JSON"),
        ('{"data": []}', "the train split has no examples"),
    ],
)
def test_bad_questions_are_refused(tmp_path, text, message):
    write(tmp_path, text, "train-v1.1.json")
    with pytest.raises(TaskError, match=message):
        read(name="squad", path=str(tmp_path))
