"""`ofa.inference.load`: one callable for every kind of task and runtime, which says what evaluation says."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from ofa.config import TaskConfig
from ofa.data.tasks import TaskError
from ofa.downstream.evaluate_model import EvaluationError
from ofa.export.hf import ExportError
from ofa.export.quantization_file import QUANTIZATION_FILE, QuantizationFileError
from ofa.inference import load
from ofa.models.adapters import AdapterError
from ofa.models.place import ModelError
from ofa.predictor import InferenceError
from ofa.runtimes.export import Wanted, export_to_runtime
from ofa.runtimes.export_file import EXPORT_FILE
from ofa.runtimes.extras import MissingExtraError
from ofa.runtimes.formats import FORMATS, RuntimeFileError
from ofa.runtimes.sample import Rows
from tests.commands import edit, flip
from tests.inference_cases import CASES, LENGTH, evaluated, put_scales, write_case
from tests.structures import uneven_model
from tests.task_folders import write_encoder
from tests.task_parts import ARCHITECTURES, VOCABULARY, save_model, small_model, tokenizer

TYPED = ("bert", "electra", "compact")
"""Architectures with an embedding for second texts."""
OTHERS = [pytest.param(one, marks=pytest.mark.slow) for one in ARCHITECTURES if one not in ("bert", "roberta")]


FLOATS = {name: () if name == "single" else pytest.mark.slow for name in CASES}
"""Marks of cases in fp32, of which one stands for all."""


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Cases by name; made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = write_case(tmp_path_factory.mktemp("cases"), name)
        return made[name]

    return get


def same(found, expected, **tolerance):
    """Whether two values are equal, floats to a tolerance."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key], **tolerance) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(
            same(*pair, **tolerance) for pair in zip(found, expected, strict=True)
        )
    if isinstance(expected, float):
        return isinstance(found, float) and np.isclose(found, expected, **tolerance)
    return found == expected


# ---- as evaluated -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_torch_says_what_evaluation_has_written_bit_for_bit(case, name, tmp_path):
    one = case(name)
    found = load(one.model)(one.texts, one.pairs)
    assert found == evaluated(one, tmp_path)
    assert len({json.dumps(said) for said in found}) > len(found) // 2


@pytest.mark.parametrize("name", CASES)
def test_a_model_trained_in_8_bits_says_it_in_8_bits(name, tmp_path):
    one = write_case(tmp_path, name)
    before = load(one.model)(one.texts, one.pairs)
    put_scales(one)
    found = load(one.model)(one.texts, one.pairs)
    assert found == evaluated(one, tmp_path / "predictions") and found != before


@pytest.mark.parametrize(
    ("name", "bits"), [*((name, 8) for name in CASES), *(pytest.param(name, 32, marks=FLOATS[name]) for name in CASES)]
)
@pytest.mark.parametrize("runtime", FORMATS)
def test_every_runtime_says_what_torch_says(name, runtime, bits, tmp_path):
    """OFA-35: any batch and length, on rows of the task. In 8 bits last bits turn a few roundings over, which moves a
    share by less than a fiftieth, and with it the order of candidates."""
    one = write_case(tmp_path, name)
    if bits == 8:
        put_scales(one)
    export_to_runtime(
        one.model, tmp_path / "exported", Wanted(FORMATS[runtime], rows=Rows(8, path=str(one.data.parent)))
    )
    predictor = load(tmp_path / "exported", threads=1)
    assert predictor.runtime == runtime
    expected = evaluated(one, tmp_path / "predictions")
    near = {"atol": 2e-4, "rtol": 1e-3} if bits == 32 else {"atol": 0.02}
    for size in (1, 7, 32):
        found = predictor(one.texts, one.pairs, batch_size=size)
        for said in [*found, *expected] if bits == 8 else []:
            said.pop("n_best", None)
        assert same(found, expected, **near)


@pytest.mark.parametrize("head", ["classification", "regression", "tokens", "questions"])
@pytest.mark.parametrize("case_name", ["bert", "roberta", "compact", *OTHERS])
def test_a_model_of_others_gives_the_logits_of_its_stock_class(case_name, head, tmp_path):
    """Rows, padding and inputs against transformers' own tokenizer and forward, one text at a time."""
    model = uneven_model(head=head) if case_name == "compact" else small_model(case_name, head)
    predictor = load(save_model(tmp_path / "model", model))
    texts = ["good red blue .", "the bad", "who is in a 1 2 3 4 5"]
    words = tokenizer()
    given = [text.split() for text in texts] if head == "tokens" else texts
    second = texts if head == "questions" else None
    for text, said in zip(texts, predictor(given, second), strict=True):
        batch = words(text, second and text, return_tensors="pt", return_token_type_ids=case_name in TYPED)
        with torch.no_grad():
            output = model.eval()(**batch)
        if head == "regression":
            assert said["label"] == pytest.approx(output.logits.item(), abs=1e-5)
        elif head == "classification":
            expected = dict(zip("abc", output.logits[0].softmax(0).tolist(), strict=True))
            assert said["probabilities"] == pytest.approx(expected, abs=1e-5)
        elif head == "tokens":
            expected = ["abc"[number] for number in output.logits[0].argmax(1)[1:-1]]
            assert said["label"] == expected and len(said["probabilities"]) == len(text.split())
        else:
            assert said["answer"] and text[said["start"] : said["end"]] == said["answer"] and said["null_odds"] is None
            spans = output.start_logits[0, :, None] + output.end_logits[0, None, :]
            inside = spans[len(text.split()) + 2 : -1, len(text.split()) + 2 : -1].triu()
            assert said["n_best"][0]["score"] == pytest.approx(inside[inside != 0].max().item(), abs=1e-5)


# ---- how it is asked --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_one_example_gives_one_answer_and_none_gives_none(case, name):
    one = case(name)
    predictor = load(one.model)
    whole = predictor(one.texts[:3], one.pairs and one.pairs[:3])
    alone = predictor(one.texts[1], one.pairs and one.pairs[1])
    assert same(alone, whole[1], atol=1e-5)
    assert predictor([], None if one.pairs is None else []) == []


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(12)), size=st.integers(1, 13), name=st.sampled_from(list(CASES)))
def test_neither_order_nor_batch_changes_an_answer(case, order, size, name):
    one = case(name)
    predictor = load(one.model)
    whole = predictor(one.texts[:12], one.pairs and one.pairs[:12])
    found = predictor(
        [one.texts[place] for place in order], one.pairs and [one.pairs[place] for place in order], batch_size=size
    )
    assert same(found, [whole[place] for place in order], atol=1e-4)


def test_words_without_a_token_are_null(case):
    one = case("words")
    for words, said in zip(one.texts, load(one.model)(one.texts), strict=True):
        places = [place for place, label in enumerate(said["label"]) if label is None]
        assert len(said["label"]) == len(words) and words.index("\x01") in places
        assert places == [place for place, share in enumerate(said["probabilities"]) if share is None]
        assert set(said["label"]) <= {"N", "V", None}


def test_words_may_be_parted_by_spaces_and_may_be_none(case):
    predictor = load(case("words").model)
    assert predictor("the cat  sat") == predictor(["the", "cat", "sat"])
    assert predictor([["the"], []])[1] == {"label": [], "probabilities": []}


@pytest.mark.parametrize("threshold", [-1e9, 1e9])
def test_a_threshold_of_the_callers_decides_on_no_answer(case, threshold):
    one = case("questions")
    found = load(one.model)(one.texts, one.pairs, null_threshold=threshold)
    spans = [any(listed["text"] for listed in said["n_best"]) for said in found]
    given = [said["answer"] != "" for said in found]
    assert given == [threshold > 0 and any_ for any_ in spans] == [said["start"] >= 0 for said in found] and any(spans)


def test_longer_rows_are_read_where_they_are_asked_for(case, caplog):
    one = case("single")
    text = " ".join(["cat"] * 100 + ["dog"])
    short, long = load(one.model), load(one.model, max_length=200)
    assert short(text) == short(text + " dog") and "texts cut at 24 tokens" in caplog.text
    caplog.clear()
    assert long(text) != long(text + " dog") and not caplog.text
    with pytest.raises(ModelError, match="task.max_length is 400 and the positions .* cover 384"):
        load(one.model, max_length=400)


def test_windows_get_shorter_with_the_rows(tmp_path):
    """A model whose positions are few, and that does not say its stride."""
    predictor = load(save_model(tmp_path / "model", small_model(head="questions")))
    said = predictor("who is", " ".join(["red"] * 300 + ["blue"]))
    assert said["answer"]


def test_torchs_threads_are_those_of_before_afterwards(case):
    one = case("single")
    before = torch.get_num_threads()
    asked = []
    predictor = load(one.model, threads=before + 1)
    object.__setattr__(predictor, "outputs_of", _recording(predictor.outputs_of, asked))
    predictor(one.texts)
    assert set(asked) == {before + 1} and torch.get_num_threads() == before


def _recording(outputs_of, asked):
    def recorded(batch):
        asked.append(torch.get_num_threads())
        return outputs_of(batch)

    return recorded


# ---- where it stands --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(case, tmp_path_factory):
    """A run folder with a model and an export of it."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(case("single").model, folder / "model")
    task = json.loads((folder / "model" / "recipe.json").read_text())["config"]
    record = {"config": task, "data_fingerprint": "", "versions": {}}
    (folder / "config.json").write_text(json.dumps(record))
    export_to_runtime(
        folder, folder / "onnx", Wanted(FORMATS["onnx"], rows=Rows(8, path=str(case("single").data.parent)))
    )
    return folder


def test_a_run_folder_gives_its_model_or_the_export_that_is_asked_for(run, case):
    expected = load(case("single").model)("a cat")
    assert load(run)("a cat") == expected == load(run, runtime="torch")("a cat")
    exported = load(run, runtime="onnx")
    assert exported.runtime == "onnx" and same(exported("a cat"), expected, atol=1e-5)
    assert load(run / "onnx").opened.config.text_column == "review"


@pytest.mark.parametrize(
    ("place", "options", "words"),
    [
        (".", {"runtime": "openvino"}, "not exported to OpenVINO; make it with: .*/export.py .* --format openvino"),
        ("model", {"runtime": "onnx"}, "was not exported to ONNX Runtime"),
        ("onnx", {"runtime": "torch"}, "was exported to onnx, not to torch"),
        (".", {"runtime": "tensorrt"}, "no runtime 'tensorrt': known are torch, onnx"),
        ("onnx", {"device": "meta"}, "ONNX Runtime computes on the CPU here, not on meta"),
        ("model", {"device": "qpu"}, "no device 'qpu' here"),
    ],
)
def test_a_runtime_or_device_that_is_not_there_is_said(run, place, options, words):
    with pytest.raises(InferenceError, match=words):
        load(run / place, **options)


def test_a_hub_id_is_torchs():
    with pytest.raises(InferenceError, match="owner/model is a hub id, which torch reads"):
        load("owner/model", runtime="onnx")


def test_a_runtime_that_is_not_installed_is_said_with_the_command(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"onnxruntime.*pip install 'sparse-ofa\[export\]'"):
        load(run / "onnx")


# ---- what is refused --------------------------------------------------------------------------------------------


def broken(source, folder, change):
    """A copy with a change."""
    shutil.copytree(source, folder)
    change(folder)
    return folder


def other_words(folder):
    """Another tokenizer of as many words."""
    path = folder / "vocab.txt"
    words = path.read_text().split("\n")
    words[7], words[9] = words[9], words[7]
    path.write_text("\n".join(words))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda f: (f / "config.json").write_text("{"), ExportError, "neither a run folder"),
        (lambda f: (f / "model.safetensors").unlink(), ModelError, "cannot be loaded"),
        (lambda f: (f / "model.safetensors").write_bytes(b"short"), ModelError, "cannot be loaded"),
        (lambda f: (f / QUANTIZATION_FILE).write_bytes(b"short"), QuantizationFileError, "damaged or cut short"),
        (
            lambda f: edit(f / "recipe.json", lambda r: r.update(quantization={"bits": 8})),
            QuantizationFileError,
            "was trained in 8 bits, as its recipe.json says, and has no quantization.safetensors: copy the file",
        ),
        (lambda f: (f / "vocab.txt").unlink(), ModelError, "has no tokenizer"),
        (other_words, ModelError, "is not the tokenizer that .* was trained with"),
        (lambda f: edit(f / "config.json", lambda c: c.update(model_type="gpt2")), AdapterError, "gpt2"),
        (
            lambda f: edit(f / "config.json", lambda c: c.update(problem_type="multi_label_classification")),
            InferenceError,
            "several classes to one text",
        ),
        (
            lambda f: edit(f / "config.json", lambda c: c.update(id2label={"0": "LABEL_0", "1": "LABEL_1"})),
            EvaluationError,
            "classes without names .LABEL_0, LABEL_1.: name them .* id2label of its config.json",
        ),
        (
            lambda f: edit(f / "recipe.json", lambda r: r["config"].update(task={"name": "squad"})),
            ModelError,
            "is a model of classification, and what it was trained on, squad, is a task of questions",
        ),
    ],
)
def test_a_folder_that_is_damaged_or_says_too_little_is_refused(case, tmp_path, change, error, words):
    with pytest.raises(error, match=words):
        load(broken(case("single").model, tmp_path / "copy", change))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda f: flip(f / "model.onnx"), ExportError, "model.onnx is not the file that was exported"),
        (lambda f: (f / EXPORT_FILE).unlink(), ExportError, "was not exported to a runtime"),
        (lambda f: (f / "model.onnx").unlink(), ExportError, "model.onnx is missing"),
        (lambda f: other_words(f), ExportError, "vocab.txt is not the file that was exported"),
    ],
)
def test_an_exported_folder_that_is_not_whole_is_refused(run, tmp_path, change, error, words):
    with pytest.raises(error, match=words):
        load(broken(run / "onnx", tmp_path / "copy", change))


def test_what_a_runtime_cannot_read_is_said_in_its_words(run, tmp_path, monkeypatch):
    def cut(folder):
        (folder / "model.onnx").write_bytes((run / "onnx" / "model.onnx").read_bytes()[:1000])

    monkeypatch.setattr("ofa.inference.read_export", lambda folder: json.loads((folder / EXPORT_FILE).read_text()))
    with pytest.raises(RuntimeFileError, match="cannot be read by ONNX Runtime"):
        load(broken(run / "onnx", tmp_path / "copy", cut))


def test_an_encoder_without_the_head_of_a_task_is_refused(case, tmp_path):
    base = write_encoder(tmp_path / "base", case("single").model.parent / "tokenizer")
    with pytest.raises(InferenceError, match="is BertForPreTraining; expected a task model: fine-tune it first"):
        load(base)


def test_a_tokenizer_of_more_words_than_the_model_has_is_refused(tmp_path):
    folder = save_model(tmp_path / "model", small_model(), (*VOCABULARY, "huge"))
    predictor = load(folder)
    assert predictor("red")["label"] in "abc"
    with pytest.raises(ModelError, match=f"gives the id {len(VOCABULARY)}, and the model's vocabulary has"):
        predictor(["red", "huge"])


@pytest.mark.parametrize(
    ("name", "inputs", "words"),
    [
        ("single", ("a", "b"), "reads one text for each example, found a second text"),
        ("pairs", ("a",), "reads two texts for each example, found one text alone"),
        ("questions", ("a",), "reads a question and a context"),
        ("words", (["a"], ["b"]), "reads one list of words"),
        ("pairs", (["a", "b"], ["c"]), "2 texts and 1 second ones"),
        ("pairs", ("a", ["c"]), "one text and a list of texts"),
        ("single", (["a", None],), "expected texts, found NoneType: None"),
        ("words", (["a", 3],), "expected lists of words, found int: 3"),
        ("words", ([["a", 3]],), "expected words, found int: 3"),
        ("words", (["a cat", "a dog"],), "give a list of lists of words"),
    ],
)
def test_other_inputs_than_the_model_takes_are_refused(case, name, inputs, words):
    with pytest.raises(InferenceError, match=words):
        load(case(name).model)(*inputs)


def test_a_threshold_is_for_questions(case):
    with pytest.raises(InferenceError, match="null_threshold is for questions"):
        load(case("single").model)("a", null_threshold=0.0)


def test_windows_that_bring_nothing_new_are_refused(tmp_path):
    one = write_case(tmp_path, "questions")
    edit(one.model / "recipe.json", lambda recipe: recipe["config"]["task"].update(stride=23))
    with pytest.raises(TaskError, match="task.stride 23 leaves nothing new"):
        load(one.model)(one.texts, one.pairs)


def test_a_model_of_another_task_is_said_to_be_that_however_long_the_rows(case):
    with pytest.raises(ModelError, match="negative") as caught:
        load(case("single").model, task=TaskConfig(name="sst2", path=".", max_length=4096))
    assert "max_length" not in str(caught.value)


# ---- transformers' own pipelines --------------------------------------------------------------------------------


def test_a_pipeline_reads_the_folder_and_says_the_same(case):
    one = case("single")
    texts = [text for text in one.texts if len(text.split()) < LENGTH // 2]
    expected = load(one.model)(texts)
    classify = pipeline("text-classification", model=str(one.model), device="cpu")
    found = classify(texts)
    assert [said["label"] for said in found] == [said["label"] for said in expected]
    shares = [said["probabilities"][said["label"]] for said in expected]
    assert [said["score"] for said in found] == pytest.approx(shares, abs=1e-5)


def test_a_pipeline_reads_a_compact_folder_with_its_own_code(tmp_path):
    folder = save_model(tmp_path / "model", uneven_model())
    expected = load(folder)(["good red", "bad blue 1"])
    own = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    words = AutoTokenizer.from_pretrained(folder)
    for classify in (
        pipeline("text-classification", model=str(folder), trust_remote_code=True, device="cpu"),
        pipeline("text-classification", model=own, tokenizer=words, device="cpu"),
    ):
        found = classify(["good red", "bad blue 1"])
        assert [said["label"] for said in found] == [said["label"] for said in expected]
