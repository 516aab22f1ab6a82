"""`launch/evaluate.py` on task models, as a user types it: what it prints, writes, appends and refuses."""

import json
import random
import shutil

import pytest

from tests import processes
from tests.commands import command, edit, refused
from tests.task_folders import WORDS, write_encoder, write_task_model, write_tokenizer

FINETUNE = {
    "model": {"init": "base", "dropout": 0.0},
    "task": {"name": "mrpc", "path": "glue/MRPC", "max_length": 48},
    "batch": {"global_size": 8, "micro_size": 8},
    "optimizer": {"lr": 1e-3},
    "schedule": {"total_steps": 8},
    "evaluate": {"every": 4},
    "engine": {"threads": 1},
    "checkpoint": {"every": 100},
    "seed": 11,
}

MRPC = ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
MNLI = ["index", "sentence1", "sentence2", "gold_label"]
SPARSITIES = ("encoder_sparsity", "scope_sparsity", "model_sparsity")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, a base model, a fine-tuned run of ours, and models of other tasks."""
    folder = tmp_path_factory.mktemp("place")
    draw = random.Random(3)
    for name, count in (("train", 40), ("dev", 30), ("test", 20)):
        quality = ["index"] if name == "test" else []
        write_table(folder / "glue" / "MRPC" / f"{name}.tsv", [*quality, *MRPC], count, draw, {"Quality": ["0", "1"]})
    classes = {"gold_label": ["entailment", "neutral", "contradiction"]}
    for name in ("dev_matched", "dev_mismatched", "test_mismatched"):
        write_table(folder / "glue" / "MNLI" / f"{name}.tsv", MNLI, 30, draw, classes)
    write_questions(folder / "squad2" / "dev-v2.0.json", draw)
    write_words(folder / "words" / "validation.jsonl", draw)
    tokenizer = write_tokenizer(folder / "tokenizer")
    write_encoder(folder / "base", tokenizer)
    models = {"mrpc": {}, "stsb": {}, "squad_v2": {}, "mnli": {"names": ["neutral", "contradiction", "entailment"]}}
    for name, options in models.items():
        write_task_model(folder / name, name, tokenizer, **options)
    write_task_model(folder / "unnamed", "mnli", tokenizer, names=["LABEL_0", "LABEL_1", "LABEL_2"])
    write_task_model(folder / "tagger", "token_classification", tokenizer, names=["NOUN", "VERB", "OTHER"])
    (folder / "finetune.json").write_text(json.dumps(FINETUNE))
    processes.script("finetune.py", "--config", "finetune.json", cwd=folder)
    return folder


def sentence(draw):
    """A few words."""
    return " ".join(draw.choices(WORDS, k=draw.randint(2, 15)))


def write_table(path, head, count, draw, choices):
    """A .tsv of random sentences; `choices` are the values of a column."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        [str(row) if name == "index" else draw.choice(choices[name]) if name in choices else sentence(draw)]
        for row in range(count)
        for name in head
    ]
    cells = [cell for (cell,) in rows]
    lines = ["\t".join(cells[start : start + len(head)]) for start in range(0, len(cells), len(head))]
    path.write_text("\n".join(["\t".join(head), *lines]) + "\n")


def write_questions(path, draw):
    """30 questions, every third without an answer."""
    path.parent.mkdir(parents=True)
    paragraphs = []
    for number in range(30):
        context = " ".join(draw.choices(WORDS[2:], k=25))  # without articles, of which nothing is left
        text = draw.choice(context.split())
        answers = [] if number % 3 == 0 else [{"text": text, "answer_start": context.index(text)}]
        asked = {"id": f"q{number}", "question": sentence(draw), "answers": answers, "is_impossible": not answers}
        paragraphs.append({"context": context, "qas": [asked]})
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))


def write_words(path, draw):
    """20 lists of words with a class for each."""
    path.parent.mkdir(parents=True)
    lines = []
    for _ in range(20):
        words = sentence(draw).split()
        lines.append(json.dumps({"words": words, "tags": draw.choices(["NOUN", "VERB", "OTHER"], k=len(words))}))
    path.write_text("\n".join(lines) + "\n")


def said(*arguments, cwd):
    """What a command that ends well prints."""
    answer = command("evaluate.py", *arguments, cwd=cwd)
    assert answer.status == 0, answer
    return answer


def scores(*arguments, cwd):
    """Its JSON object."""
    return json.loads(said(*arguments, "--json", cwd=cwd).out)


def read_tsv(path):
    """[{column: cell}]"""
    head, *lines = [line.split("\t") for line in path.read_text().splitlines()]
    return [dict(zip(head, cells, strict=True)) for cells in lines]


# ---- the task that the model was fine-tuned on ------------------------------------------------------------------


def test_a_run_folder_alone_gives_the_scores_of_its_own_result(place):
    found = scores("runs/finetune", cwd=place)
    result = json.loads((place / "runs" / "finetune" / "result.json").read_text())
    own = result["rows"][-1]
    assert set(found["metrics"]) == {"validation_loss", "f1", "accuracy"}
    assert found["metrics"] == pytest.approx({name: own[name] for name in found["metrics"]}, abs=1e-6)
    assert {name: found[name] for name in SPARSITIES} == {name: own[name] for name in SPARSITIES}
    assert found["scope_sparsity"] == pytest.approx(0.5, abs=1e-3)


def test_a_line_has_every_field_of_the_runs_own_results(place):
    found = scores("runs/finetune", cwd=place)
    own = json.loads((place / "runs" / "finetune" / "results.jsonl").read_text())
    assert found.keys() - own.keys() == {"split", "examples", "evaluation_seconds", "predictions"}
    assert own.keys() <= found.keys()
    same = own.keys() - {"name", "metrics", "references", "hardware", "versions", "commit"}
    assert {key: found[key] for key in same} == {key: own[key] for key in same}
    assert (found["model"], found["seed"], found["steps"], found["examples"]) == ("base", 11, 8, 30)


def test_what_a_run_took_is_not_said_of_other_weights_in_its_folder(place, tmp_path):
    copy = shutil.copytree(place / "runs" / "finetune", tmp_path / "copy")
    assert scores(copy, *ON_MRPC, cwd=place)["seconds"] > 0
    edit(copy / "result.json", lambda values: values.update(fingerprint="ab" * 32))
    found = scores(copy, *ON_MRPC, cwd=place)
    assert (found["seconds"], found["device_hours"], found["seed"]) == (None, None, 11)


def test_the_table_is_one_row_with_metrics_and_zeros(place):
    lines = said("runs/finetune", cwd=place).out.splitlines()
    assert " ".join(lines[0].split()) == "validation loss f1 accuracy encoder zeros scope zeros model zeros"
    assert lines[2].startswith("runs/finetune, validation ") and len(lines) == 3
    assert "50.0" in lines[2]


def test_a_model_folder_says_its_task_by_its_recipe(place, tmp_path):
    shutil.copytree(place / "runs" / "finetune" / "model", tmp_path / "copy")
    found = scores(tmp_path / "copy", *ON_MRPC, cwd=place)
    inside = scores("runs/finetune/model", cwd=place)
    assert found["metrics"] == inside["metrics"] == scores("runs/finetune", cwd=place)["metrics"]
    assert (found["task"], found["seed"], found["steps"], found["seconds"]) == ("mrpc", 11, 8, None)
    assert inside["seconds"] > 0


def test_elsewhere_the_data_must_be_named(place, tmp_path):
    run = place / "runs" / "finetune"
    words = ["fine-tuned on glue/MRPC", "no folder here", "--path"]
    refused(tmp_path, run, script_name="evaluate.py", words=words)
    found = scores(run, "--path", place / "glue" / "MRPC", cwd=tmp_path)
    assert found["metrics"] == scores("runs/finetune", cwd=place)["metrics"]


def test_values_of_the_task_can_be_set(place):
    assert scores("runs/finetune", "--set", "task.validation_rows=7", cwd=place)["examples"] == 7
    short = scores("runs/finetune", "--set", "task.max_length=9", cwd=place)["metrics"]["validation_loss"]
    assert short != scores("runs/finetune", cwd=place)["metrics"]["validation_loss"]


def test_how_many_rows_go_through_together_does_not_show(place):
    one, all_ = (scores("runs/finetune", "--micro-size", size, cwd=place)["metrics"] for size in (1, 64))
    assert one == pytest.approx(all_, abs=1e-5)


# ---- what is written --------------------------------------------------------------------------------------------


def test_results_get_one_more_line(place, tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    for name in ("runs/finetune", "mrpc"):
        given = ("--task", "mrpc", "--path", "glue/MRPC", "--results", path)
        printed = scores(name, *given, cwd=place)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert lines[-1] | {"predictions": []} == printed
    assert [line["name"] for line in lines] == ["runs/finetune", "mrpc"]
    assert f"results: {path}" in said("runs/finetune", "--results", path, cwd=place).out
    assert len(path.read_text().splitlines()) == 3


def test_predictions_give_the_scores_that_were_printed(place, tmp_path):
    found = scores("mrpc", "--path", "glue/MRPC", "--predictions", tmp_path, cwd=place)
    plain, server = (tmp_path / "validation" / name for name in ("predictions.jsonl", "MRPC.tsv"))
    assert found["predictions"] == [str(plain), str(server)]
    truth = [row["Quality"] for row in read_tsv(place / "glue" / "MRPC" / "dev.tsv")]
    answers = [row["prediction"] for row in read_tsv(server)]
    right = sum(one == other for one, other in zip(truth, answers, strict=True)) / len(truth)
    assert found["metrics"]["accuracy"] == pytest.approx(right) and 0 < right < 1
    names = {"equivalent": "1", "not_equivalent": "0"}
    assert [names[json.loads(line)["label"]] for line in plain.read_text().splitlines()] == answers


def test_a_test_split_gives_predictions_alone_and_says_so(place, tmp_path):
    arguments = ("mrpc", "--path", "glue/MRPC", "--split", "test", "--predictions", tmp_path)
    lines = said(*arguments, cwd=place).out.splitlines()
    assert lines[0] == "the test split of mrpc has no labels: predictions alone"
    rows = read_tsv(tmp_path / "test" / "MRPC.tsv")
    assert [row["index"] for row in rows] == [str(number) for number in range(20)]
    assert {row["prediction"] for row in rows} <= {"0", "1"} and len(lines) == 3
    assert scores(*arguments, cwd=place)["metrics"] == {}


def test_the_servers_file_of_the_mismatched_test_split_has_its_own_name(place, tmp_path):
    given = ("--path", "glue/MNLI", "--split", "test_mismatched", "--predictions", tmp_path)
    said("mnli", *given, cwd=place)
    rows = read_tsv(tmp_path / "test_mismatched" / "MNLI-mm.tsv")
    assert len(rows) == 30 and {row["prediction"] for row in rows} <= {"entailment", "neutral", "contradiction"}


def test_a_further_split_is_scored_on_its_own_rows(place, tmp_path):
    given = ("mnli", "--path", "glue/MNLI", "--predictions", tmp_path, "--split", "validation_mismatched")
    found = scores(*given, cwd=place)
    truth = [row["gold_label"] for row in read_tsv(place / "glue" / "MNLI" / "dev_mismatched.tsv")]
    lines = (tmp_path / "validation_mismatched" / "predictions.jsonl").read_text().splitlines()
    right = sum(json.loads(line)["label"] == label for line, label in zip(lines, truth, strict=True)) / 30
    assert found["metrics"]["accuracy"] == pytest.approx(right)
    assert found["split"] == "validation_mismatched"


def test_the_best_threshold_of_squad_v2_is_searched_over_answers_that_were_not_withheld(place, tmp_path):
    """A random model is never right, so its own answers are made the right ones."""

    def asked(path, threshold):
        given = ("--set", f"task.null_threshold={threshold}", "--predictions", tmp_path / str(threshold))
        return scores("squad_v2", "--path", path, *given, cwd=place)["metrics"]

    def written(threshold, name="predictions.json"):
        return json.loads((tmp_path / str(threshold) / "validation" / name).read_text())

    asked("squad2", 1000)
    own = written(1000)
    assert len(own) == 30 and all(own.values())
    shutil.copytree(place / "squad2", tmp_path / "own")
    edit(tmp_path / "own" / "dev-v2.0.json", lambda values: answer_all(values, own))
    found = {threshold: asked(tmp_path / "own", threshold) for threshold in (-1000, 0, 1000)}
    best = [{key: one[key] for key in one if key.startswith("best_")} for one in found.values()]
    assert set(best[0]) == {"best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"}
    assert best[0] == best[1] == best[2]
    assert best[0]["best_exact"] >= max(one["exact_match"] for one in found.values())
    assert (found[-1000]["NoAns_exact"], found[-1000]["HasAns_exact"]) == (100, 0)
    assert (found[1000]["NoAns_exact"], found[1000]["HasAns_exact"]) == (0, 100)
    assert not any(written(-1000).values()) and len(written(0, "null_odds.json")) == 30


def answer_all(values, answers):
    """Make these the right answers of the questions that have one."""
    for paragraph in values["data"][0]["paragraphs"]:
        for asked in paragraph["qas"]:
            text = answers[asked["id"]]
            if asked["answers"]:
                asked["answers"] = [{"text": text, "answer_start": paragraph["context"].index(text)}]


def test_classes_of_words_come_from_the_model(place, tmp_path):
    columns = ("--set", "task.text_column=words", "--set", "task.label_column=tags")
    given = ("--task", "token_classification", "--path", "words", *columns, "--predictions", tmp_path)
    found = scores("tagger", *given, cwd=place)
    lines = (tmp_path / "validation" / "predictions.jsonl").read_text().splitlines()
    truth = [json.loads(line)["tags"] for line in (place / "words" / "validation.jsonl").read_text().splitlines()]
    pairs = [
        pair
        for line, tags in zip(lines, truth, strict=True)
        for pair in zip(json.loads(line)["label"], tags, strict=True)
    ]
    assert found["metrics"]["accuracy"] == pytest.approx(sum(one == other for one, other in pairs) / len(pairs))


# ---- classes without names, ranks -------------------------------------------------------------------------------


def test_classes_without_names_are_taken_in_the_tasks_order_with_a_warning(place, caplog):
    scores("unnamed", "--path", "glue/MNLI", cwd=place)
    assert "unnamed has classes without names" in caplog.text and "id2label of its config.json" in caplog.text


def test_of_a_launchers_ranks_the_first_scores_everything(place, monkeypatch):
    given = ("mrpc", "--path", "glue/MRPC", "--micro-size", 4)
    alone = scores(*given, cwd=place)["metrics"]
    for rank in ("0", "1"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        answer = said(*given, "--json", cwd=place)
        assert (json.loads(answer.out)["metrics"] == alone) if rank == "0" else answer.out == ""


# ---- what is refused --------------------------------------------------------------------------------------------

ON_MRPC = ("--path", "glue/MRPC")
ERRORS = {
    "no such folder": (["./nowhere"], ["nowhere: no such folder"]),
    "no task known": (["base"], ["base does not say which task", "--task and --path", "--data"]),
    "a pre-trained model": (["base", "--task", "mrpc", *ON_MRPC], ["base is no task model", "fine-tuned"]),
    "no such task": (["mrpc", "--task", "mrcp", *ON_MRPC], ["no task 'mrcp'", "mrpc"]),
    "the head of another kind of task": (
        ["mrpc", "--task", "squad_v2", "--path", "squad2"],
        ["mrpc is a BertForSequenceClassification", "needs a BertForQuestionAnswering"],
    ),
    "classes for a number": (
        ["mrpc", "--task", "stsb", "--path", "glue/MRPC"],
        ["mrpc has 2 outputs", "stsb needs one"],
    ),
    "other classes": (
        ["mrpc", "--task", "sst2", *ON_MRPC],
        ["mrpc has the classes not_equivalent, equivalent", "expected negative, positive", "id2label"],
    ),
    "another number of classes": (["mrpc", "--task", "mnli", "--path", "glue/MNLI"], ["has 2 classes", "expected 3"]),
    "classes that nobody has named": (
        ["unnamed", "--task", "text_classification", "--path", "words"]
        + ["--set", "task.text_column=words", "--set", "task.label_column=tags"],
        ["unnamed has classes without names", "task.labels"],
    ),
    "no such split": (["mrpc", *ON_MRPC, "--split", "dev"], ["no split dev, only train, validation, test"]),
    "a split without its file": (
        ["mnli", "--path", "glue/MNLI", "--split", "test"],
        ["no file of the test split", "test_matched.tsv", "dev_matched.tsv, dev_mismatched.tsv, test_mismatched.tsv"],
    ),
    "a split column without such a value": (
        ["mrpc", *ON_MRPC, "--split", "dev", "--set", "task.split_column=Quality"],
        ["no split dev", "train, validation, test"],
    ),
    "no labels and no place for predictions": (
        ["mrpc", *ON_MRPC, "--split", "test"],
        ["test split of mrpc has no labels", "--predictions DIR"],
    ),
    "no labels and a place for scores": (
        ["mrpc", *ON_MRPC, "--split", "test", "--predictions", "p", "--results", "r.jsonl"],
        ["no labels", "leave --results out"],
    ),
    "no tokenizer": (["no_tokenizer", *ON_MRPC], ["no_tokenizer has no tokenizer", "tokenizer.json"]),
    "another model's tokenizer": (["other_tokenizer", *ON_MRPC], ["gives the id", "vocabulary has", "own tokenizer"]),
    "too long rows": (["mrpc", *ON_MRPC, "--set", "task.max_length=999"], ["task.max_length is 999", "at most 384"]),
    "a mistyped key": (["mrpc", *ON_MRPC, "--set", "task.max_lenght=9"], ["max_lenght", "max_length"]),
    "a value of another section": (["mrpc", *ON_MRPC, "--set", "seed=1"], ["--set seed=1", "task.KEY=VALUE"]),
    "more rows than there are": (["mrpc", *ON_MRPC, "--set", "task.validation_rows=31"], ["has 30", "asked for 31"]),
    "two sources": (["mrpc", *ON_MRPC, "--set", "task.dataset=x"], ["task.path and task.dataset"]),
    "a damaged record": (["damaged"], ["damaged/config.json is no run's record", "lacks"]),
}


@pytest.fixture(scope="module")
def crooked(place):
    """The place, with folders that cannot be used."""
    without = shutil.copytree(place / "mrpc", place / "no_tokenizer")
    for name in ("vocab.txt", "tokenizer_config.json"):
        (without / name).unlink()
    other = shutil.copytree(place / "mrpc", place / "other_tokenizer")
    words = (other / "vocab.txt").read_text().splitlines()
    (other / "vocab.txt").write_text("\n".join([*words[:5], *(f"x{one}" for one in range(200)), *words[5:]]) + "\n")
    shutil.copytree(place / "runs" / "finetune" / "model", place / "damaged" / "model")
    (place / "damaged" / "config.json").write_text('{"config": 3}')
    return place


@pytest.mark.parametrize("kind", ERRORS)
def test_what_cannot_be_evaluated_is_refused_in_one_line(crooked, kind):
    arguments, words = ERRORS[kind]
    refused(crooked, *arguments, words=words, script_name="evaluate.py")


USAGE = {
    "both kinds of scores": (["mrpc", "--data", "d", "--task", "mrpc"], ["--task is for", "--data"]),
    "a split of prepared data": (["mrpc", "--data", "d", "--split", "test"], ["--split is for"]),
    "values for prepared data": (["mrpc", "--data", "d", "--set", "task.name=mrpc"], ["--set is for"]),
    "rows of a task": (["mrpc", "--rows", "3"], ["--rows needs --data", "task.validation_rows"]),
    "no model": ([], ["MODEL"]),
}


@pytest.mark.parametrize("kind", USAGE)
def test_options_that_do_not_go_together_are_usage_errors(place, kind):
    arguments, words = USAGE[kind]
    answer = command("evaluate.py", *arguments, cwd=place)
    assert answer.status == 2 and all(word in answer.err for word in words), answer.err


def test_a_model_without_the_recorded_steps_is_scored_all_the_same(place, tmp_path, caplog):
    shutil.copytree(place / "mrpc", tmp_path / "bare")
    edit(tmp_path / "bare" / "recipe.json", lambda values: values.update(format="another"))
    found = scores(tmp_path / "bare", "--task", "mrpc", *ON_MRPC, cwd=place)
    assert found["metrics"] == scores("mrpc", *ON_MRPC, cwd=place)["metrics"]
    assert "not used: " in caplog.text
    empty = ("seed", "steps", "best_step", "lock", "distilled", "teacher", "init_fingerprint", "device_hours")
    assert [found[key] for key in empty] == [None] * len(empty)
