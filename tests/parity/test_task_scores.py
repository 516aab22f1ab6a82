"""Our numbers of a task against transformers, scikit-learn and scipy used plainly: no code of ours reads the files,
cuts the batches, finds the answers or computes a metric there. Weights are random: the numbers need not be good."""

import json
import math
import random

import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoTokenizer

from tests.commands import command
from tests.real_data import unpacked
from tests.squad_rules import oracle
from tests.task_folders import WORDS, write_task_model, write_tokenizer

ROWS = 300
BATCH = 16

FOLDERS = {
    "mrpc": "MRPC",
    "stsb": "STS-B",
    "cola": "CoLA",
    "rte": "RTE",
    "sst2": "SST-2",
    "qnli": "QNLI",
    "wnli": "WNLI",
    "mnli": "MNLI",
    "qqp": "QQP",
}
FILES = {"mnli": "dev_matched.tsv"}
"""Where it is not dev.tsv."""

PARTS = {"MNLI": "MNLI_partial/dev_matched_1000.tsv", "QQP": "QQP_partial/wang_dev.tsv"}
"""Of what is real, rows under the original header."""

COLUMNS = {
    "mrpc": ("#1 String", "#2 String", "Quality"),
    "stsb": ("sentence1", "sentence2", "score"),
    "cola": (3, None, 1),  # no header
    "rte": ("sentence1", "sentence2", "label"),
    "sst2": ("sentence", None, "label"),
    "qnli": ("question", "sentence", "label"),
    "wnli": ("sentence1", "sentence2", "label"),
    "mnli": ("sentence1", "sentence2", "gold_label"),
    "qqp": ("question1", "question2", "is_duplicate"),
}
"""First text, second text, label."""

IDS = {
    "mrpc": {"0": "not_equivalent", "1": "equivalent"},
    "cola": {"0": "unacceptable", "1": "acceptable"},
    "rte": {"entailment": "entailment", "not_entailment": "not_entailment"},
    "sst2": {"0": "negative", "1": "positive"},
    "qnli": {"entailment": "entailment", "not_entailment": "not_entailment"},
    "wnli": {"0": "not_entailment", "1": "entailment"},
    "mnli": {"entailment": "entailment", "neutral": "neutral", "contradiction": "contradiction"},
    "qqp": {"0": "not_duplicate", "1": "duplicate"},
}
"""What the files write, and the class that it means."""

REVERSED = {
    "rte": ["not_entailment", "entailment"],
    "mrpc": ["equivalent", "not_equivalent"],
    "mnli": ["contradiction", "entailment", "neutral"],
}
"""Models whose classes stand in another order than the task's (OFA-20)."""


def _accuracy(truth, found):
    return {"accuracy": accuracy_score(truth, found)}


def _with_f1(positive):
    return lambda truth, found: {"f1": f1_score(truth, found, pos_label=positive), **_accuracy(truth, found)}


SEEDS = {"mnli": 3}
"""Of weights that do not always say the same."""

METRICS = dict.fromkeys(("rte", "sst2", "qnli", "wnli", "mnli"), _accuracy) | {
    "mrpc": _with_f1("equivalent"),
    "qqp": _with_f1("duplicate"),
    "cola": lambda truth, found: {"matthews": matthews_corrcoef(truth, found)},
    "stsb": lambda truth, found: {"pearson": pearsonr(truth, found)[0], "spearman": spearmanr(truth, found)[0]},
}


# ---- files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Folder with the published files and tokenizer: `glue/`, `squad/`, `tokenizer/`."""
    folder = tmp_path_factory.mktemp("real")
    unpacked("glue_dev.tar.xz", folder / "glue")
    unpacked("squad_dev.tar.xz", folder / "squad")
    unpacked("models_tiny.tar.xz", folder / "models")
    (folder / "models" / "bert-base-uncased-tokenizer").rename(folder / "tokenizer")
    for name, part in PARTS.items():
        (folder / "glue" / name).mkdir()
        (folder / "glue" / part).rename(folder / "glue" / name / FILES.get(name.lower(), "dev.tsv"))
    for task in FOLDERS:
        cut_lines(dev_file(folder, task), ROWS + (task != "cola"))
    cut_questions(folder / "squad" / "dev-v1.1.json")
    return folder


def dev_file(folder, task):
    """A task's file of the fixtures."""
    return folder / "glue" / FOLDERS[task] / FILES.get(task, "dev.tsv")


def cut_lines(path, number):
    """Keep the first lines of a file, byte for byte."""
    path.write_bytes(b"\n".join(path.read_bytes().split(b"\n")[:number]) + b"\n")


def cut_questions(path, number=50):
    """Keep the first questions of a SQuAD file, each with a paragraph of its own."""
    kept = [
        {"context": paragraph["context"], "qas": [one]}
        for article in json.loads(path.read_text())["data"]
        for paragraph in article["paragraphs"]
        for one in paragraph["qas"]
    ]
    path.write_text(json.dumps({"data": [{"paragraphs": kept[:number]}]}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The same with files of random sentences."""
    folder = tmp_path_factory.mktemp("made")
    write_tokenizer(folder / "tokenizer")
    draw = random.Random(5)
    for task in FOLDERS:
        _write_glue(dev_file(folder, task), task, draw)
    _write_glue(dev_file(folder, "mnli").with_name("dev_mismatched.tsv"), "mnli", draw)
    (folder / "squad").mkdir()
    articles = [{"paragraphs": [_paragraph(draw, number) for number in range(20)]}]
    (folder / "squad" / "dev-v1.1.json").write_text(json.dumps({"data": articles}))
    cut_questions(folder / "squad" / "dev-v1.1.json")
    return folder


@pytest.fixture(params=["real", "made"])
def data(request):
    """Each of the two."""
    return request.getfixturevalue(request.param)


def _sentence(draw, longest=25):
    return " ".join(draw.choices([*WORDS, "xylophone", '"', "42", "can't"], k=draw.randint(1, longest)))


def _write_glue(path, task, draw):
    """A file under the original header, labels at random."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = list(range(4)) if task == "cola" else ["index", *[name for name in COLUMNS[task] if name]]
    lines = [] if task == "cola" else ["\t".join(head)]
    for number in range(120):
        cells = {name: _sentence(draw) for name in head} | {"index": str(number)}
        cells[COLUMNS[task][2]] = draw.choice(list(IDS[task])) if task in IDS else f"{5 * draw.random():.3f}"
        lines.append("\t".join(cells[name] for name in head))
    path.write_text("\n".join(lines) + "\n")


def _paragraph(draw, number):
    """A context that needs several windows, and questions whose answers are words of it."""
    context = _sentence(draw, 20) + " " + " ".join(_sentence(draw) for _ in range(15))
    questions = []
    for one in range(3):
        word = draw.choice(context.split())
        answers = [{"text": word, "answer_start": context.index(word)}]
        questions.append({"id": f"q{number}-{one}", "question": _sentence(draw, 12), "answers": answers})
    return {"context": context, "qas": questions}


# ---- GLUE -------------------------------------------------------------------------------------------------------


def read_rows(path, task):
    """[(first text, second text or None, label as written)], by splitting lines at tabs."""
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8-sig").split("\n") if line]
    places = COLUMNS[task]
    if task != "cola":
        head, *lines = lines
        places = [None if name is None else head.index(name) for name in places]
    return [tuple(None if place is None else cells[place].rstrip("\r") for place in places) for cells in lines[:ROWS]]


def plain_logits(folder, rows):
    """Logits [N, C] of batches in the order of the file."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    pieces = []
    for start in range(0, len(rows), BATCH):
        first, second, _ = zip(*rows[start : start + BATCH], strict=True)
        texts = [list(first)] if second[0] is None else [list(first), list(second)]
        batch = tokenizer(*texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
        with torch.no_grad():
            pieces.append(model(**batch).logits)
    return torch.cat(pieces), model.config.id2label


def task_model(place, task, data):
    """Folder of a model with random weights."""
    seed = SEEDS.get(task, 0)
    return write_task_model(place / "model", task, data / "tokenizer", names=REVERSED.get(task), seed=seed)


def ours(model, task, path, place, *arguments):
    """(JSON object, predictions folder) of the command."""
    common = ("--task", task, "--path", path, "--predictions", place / "predictions", "--json")
    answer = command("evaluate.py", model, *common, *arguments, cwd=place)
    assert answer.status == 0, answer.err
    return json.loads(answer.out), place / "predictions" / "validation"


@pytest.mark.parametrize("task", FOLDERS)
def test_glue_predictions_and_scores_equal_a_plain_evaluation(task, data, tmp_path):
    path = data / "glue" / FOLDERS[task]
    model = task_model(tmp_path, task, data)
    rows = read_rows(dev_file(data, task), task)
    logits, names = plain_logits(model, rows)
    scores, predictions = ours(model, task, path, tmp_path)
    found = [json.loads(line) for line in (predictions / "predictions.jsonl").read_text().splitlines()]
    assert len(found) == len(rows) > 70
    if task == "stsb":
        expected = logits[:, 0].tolist()
        assert [one["label"] for one in found] == pytest.approx(expected, abs=1e-5)
        truth, tolerance = [float(label) for *_, label in rows], 1e-6
        assert max(expected) - min(expected) > 0.1
    else:
        expected = [names[number] for number in logits.argmax(dim=1).tolist()]
        assert [one["label"] for one in found] == expected
        truth, tolerance = [IDS[task][label] for *_, label in rows], 1e-12
        counts = sorted(map(expected.count, names.values()))
        assert counts[-2] > len(rows) // 20, "the model always says the same"
        for one, shares in zip(found, logits.softmax(dim=1).tolist(), strict=True):
            assert list(map(one["probabilities"].get, names.values())) == pytest.approx(shares, abs=1e-5)
    wanted = {name: float(value) for name, value in METRICS[task](truth, expected).items()}
    metrics = {name: value for name, value in scores["metrics"].items() if not name.endswith("mismatched")}
    loss = metrics.pop("validation_loss")
    assert metrics == pytest.approx(wanted, abs=tolerance, rel=0)
    assert loss == pytest.approx(_loss(logits, truth, names, task), rel=1e-5)


def test_mnli_mismatched_has_a_score_of_its_own(made, tmp_path):
    path = made / "glue" / "MNLI"
    model = task_model(tmp_path, "mnli", made)
    rows = read_rows(path / "dev_mismatched.tsv", "mnli")
    logits, names = plain_logits(model, rows)
    scores, validation = ours(model, "mnli", path, tmp_path, "--split", "validation_mismatched")
    expected = [names[number] for number in logits.argmax(dim=1).tolist()]
    accuracy = accuracy_score([label for *_, label in rows], expected)
    assert scores["metrics"]["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    written = (validation.with_name("validation_mismatched") / "MNLI-mm.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[1] for line in written] == expected


def _loss(logits, truth, names, task):
    if task == "stsb":
        return torch.nn.functional.mse_loss(logits[:, 0], torch.tensor(truth)).item()
    numbers = {name: number for number, name in names.items()}
    return torch.nn.functional.cross_entropy(logits, torch.tensor([numbers[name] for name in truth])).item()


# ---- SQuAD ------------------------------------------------------------------------------------------------------

LENGTH, STRIDE, BEST, LONGEST = 160, 48, 20, 30


def read_questions(path):
    """(id, question, context, gold answers) of every question."""
    articles = json.loads(path.read_text())["data"]
    return [
        (one["id"], one["question"], paragraph["context"], [answer["text"] for answer in one["answers"]])
        for article in articles
        for paragraph in article["paragraphs"]
        for one in paragraph["qas"]
    ]


def plain_answer(model, tokenizer, question, context):
    """The span with the highest start + end logit over all windows of the context, by trying them one by one."""
    lengths = {"truncation": "only_second", "max_length": LENGTH, "stride": STRIDE, "padding": True}
    wanted = {"return_overflowing_tokens": True, "return_offsets_mapping": True, "return_tensors": "pt"}
    windows = tokenizer(question, context, **lengths, **wanted)
    inputs = {name: windows[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        output = model(**inputs)
    best, text = -math.inf, ""
    for number in range(len(windows["input_ids"])):
        inside = [place == 1 for place in windows.sequence_ids(number)]
        length = int(windows["attention_mask"][number].sum())
        starts, ends = (side[number, :length].tolist() for side in (output.start_logits, output.end_logits))
        offsets = windows["offset_mapping"][number].tolist()
        firsts, lasts = (sorted(range(length), key=lambda at: -side[at])[:BEST] for side in (starts, ends))  # noqa: B023
        for first in firsts:
            for last in lasts:
                valid = inside[first] and inside[last] and first <= last < first + LONGEST
                if valid and starts[first] + ends[last] > best:
                    best, text = starts[first] + ends[last], context[offsets[first][0] : offsets[last][1]]
    return text, len(windows["input_ids"])


def test_squad_answers_and_scores_equal_a_plain_evaluation(data, tmp_path):
    model = write_task_model(tmp_path / "model", "squad", data / "tokenizer")
    questions = read_questions(data / "squad" / "dev-v1.1.json")
    assert len(questions) == 50
    settings = {"max_length": LENGTH, "stride": STRIDE}
    given = [part for key, value in settings.items() for part in ("--set", f"task.{key}={value}")]
    scores, folder = ours(model, "squad", data / "squad", tmp_path, *given)
    found = json.loads((folder / "predictions.json").read_text())
    stock, tokenizer = AutoModelForQuestionAnswering.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    plain = {key: plain_answer(stock, tokenizer, question, context) for key, question, context, _ in questions}
    assert found == {key: text for key, (text, _) in plain.items()}
    assert sum(windows > 1 for _, windows in plain.values()) > 10 and len(set(found.values())) > 20
    exact, f1 = oracle({key: golds for key, *_, golds in questions}, found, v2=False)
    assert scores["metrics"]["exact_match"] == pytest.approx(exact, abs=1e-12)
    assert scores["metrics"]["f1"] == pytest.approx(f1, abs=1e-9)


def test_squad_scores_of_any_answers_follow_the_official_rules(data, tmp_path):
    """A random model is never right: its questions are asked again with its own answers, changed a little, as gold."""
    questions = read_questions(data / "squad" / "dev-v1.1.json")
    model = write_task_model(tmp_path / "model", "squad", data / "tokenizer")
    _, folder = ours(model, "squad", data / "squad", tmp_path)
    found = json.loads((folder / "predictions.json").read_text())
    golds, paragraphs = {}, []
    for number, (key, question, context, _) in enumerate(questions):
        words = found[key].split()
        text = found[key] if number % 3 == 0 or len(words) < 2 else words[0] if number % 3 == 1 else context.split()[0]
        golds[key] = [text]
        answers = [{"text": text, "answer_start": context.index(text)}]
        paragraphs.append({"context": context, "qas": [{"id": key, "question": question, "answers": answers}]})
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked" / "dev-v1.1.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    scores, _ = ours(model, "squad", tmp_path / "asked", tmp_path)
    exact, f1 = oracle(golds, found, v2=False)
    assert 20 < exact < 90 and 20 < f1 < 90 and exact != f1  # a comma alone is an exact match of F1 0 (v1.1)
    assert scores["metrics"]["exact_match"] == pytest.approx(exact, abs=1e-12)
    assert scores["metrics"]["f1"] == pytest.approx(f1, abs=1e-9)
