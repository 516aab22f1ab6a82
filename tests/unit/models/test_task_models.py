"""Task models from folders: what is drawn, what is refused, and whose classes stand where."""

import json

import pytest
import torch

from ofa.config import TaskConfig, TaskModelConfig, TaskTeacherConfig
from ofa.data.tasks import task_for
from ofa.models.adapters import AdapterError, adapter_for, scope
from ofa.models.place import ModelError
from ofa.models.task_models import (
    build_task_model,
    class_names,
    class_order,
    head_of,
    load_task_model,
    load_task_teacher,
)
from ofa.models.task_training import TaskTeacher
from tests.task_parts import ARCHITECTURES, KINDS, VOCABULARY, batch_of, random_rows, save_model, small_model, tokenizer

COLUMNS = {"path": "x", "text_column": "text", "label_column": "label"}
TASKS = {
    "classification": task_for(TaskConfig(name="mnli")),
    "regression": task_for(TaskConfig(name="stsb")),
    "tokens": task_for(TaskConfig(name="token_classification", labels=["O", "B", "I"], **COLUMNS)),
    "questions": task_for(TaskConfig(name="squad")),
}
MNLI = TASKS["classification"]
PRE_TRAINED = {model_type: "mlm" for model_type in ARCHITECTURES} | {"bert": "pre-training"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """folders(model_type, head, **changes) -> a saved model, each made once."""
    made = {}

    def folder(model_type="bert", head=None, **changes):
        key = json.dumps([model_type, head, changes])
        if key not in made:
            model = small_model(model_type, head or PRE_TRAINED[model_type], **changes)
            made[key] = str(save_model(tmp_path_factory.mktemp("model"), model))
        return made[key]

    return folder


@pytest.fixture
def edited(folders, tmp_path):
    """edited(change, ...) -> a saved model whose config.json was changed."""

    def make(change, *arguments, **changes):
        folder = save_model(tmp_path / "edited", small_model(*arguments, **changes))
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))
        return str(folder)

    return make


def build(init, kind="classification", *, seed=1, **values):
    task = TASKS[kind]
    return build_task_model(TaskModelConfig(init=init, **values), task, task.labels, seed=seed)


# ---- the student -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_the_encoder_comes_from_the_folder_and_the_head_from_the_seed(folders, model_type, kind):
    init = folders(model_type)
    built, again, other = build(init, kind), build(init, kind), build(init, kind, seed=2)
    base = f"{adapter_for(model_type).base}."
    named, source = dict(built.model.named_parameters()), small_model(model_type, PRE_TRAINED[model_type]).state_dict()
    given = (base, "head.") if model_type == "modernbert" else base  # its masked-LM head is the start of its others
    assert built.drawn == {name for name in named if not name.startswith(given)} and built.drawn
    assert all(torch.equal(value, source[name]) for name, value in named.items() if name not in built.drawn)
    assert all(torch.equal(value, again.model.get_parameter(name)) for name, value in named.items())
    matrices = [name for name in built.drawn if named[name].dim() > 1]
    assert matrices and not any(torch.equal(named[name], other.model.get_parameter(name)) for name in matrices)
    assert built.model.training and all(p.requires_grad and p.dtype == torch.float32 for p in named.values())


def test_drawing_leaves_the_callers_random_numbers_alone(folders):
    before = torch.random.get_rng_state()
    build(folders())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_pooler_that_the_folder_lacks_is_drawn_and_one_that_it_has_is_not(folders):
    """BERT's masked-LM class has none; its task class has one, which is in the scope."""
    without, has = build(folders(head="mlm")), build(folders())
    assert {"bert.pooler.dense.weight", "bert.pooler.dense.bias"} == without.drawn - has.drawn
    assert "bert.pooler.dense.weight" in scope(without.model)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_classes_and_outputs_are_written_into_the_config(folders, model_type):
    config = build(folders(model_type)).model.config
    assert class_names(config) == ["entailment", "neutral", "contradiction"]
    assert config.label2id == {"entailment": 0, "neutral": 1, "contradiction": 2}
    assert config.problem_type == "single_label_classification"
    number = build(folders(model_type), "regression").model.config
    assert (number.num_labels, number.problem_type) == (1, "regression")
    assert class_names(build(folders(model_type), "tokens").model.config) == ["O", "B", "I"]


@pytest.mark.parametrize("kind", ["classification", "questions"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_dropout_reaches_the_whole_model_its_head_too(folders, model_type, kind):
    found = [
        m.p for m in build(folders(model_type), kind, dropout=0.37).model.modules() if type(m).__name__ == "Dropout"
    ]
    assert len(found) > 3 and set(found) == {0.37}
    own = {m.p for m in build(folders(model_type), kind).model.modules() if type(m).__name__ == "Dropout"}
    assert own and 0.37 not in own


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_finished_task_model_goes_on_with_its_head(folders, model_type):
    """Its classes have the task's names, spelled in another way, or none."""
    for labels in (MNLI.labels, ("Entailment", "NEUTRAL", "contra_diction"), ("LABEL_0", "LABEL_1", "LABEL_2")):
        built = build(folders(model_type, "classification", labels=labels))
        assert not built.drawn and class_names(built.model.config) == list(MNLI.labels)


@pytest.mark.parametrize(
    ("head", "labels", "kind", "words"),
    [
        ("questions", (), "classification", ["is a BertForQuestionAnswering", "mnli needs a BertForSequenceClass"]),
        ("tokens", ("O", "B", "I"), "classification", ["is a BertForTokenClassification", "set model.new_head"]),
        ("classification", MNLI.labels, "questions", ["squad needs a BertForQuestionAnswering", "pre-trained model"]),
        (
            "classification",
            ("no", "yes"),
            "classification",
            ["a head for no, yes", "needs one for entailment, neutral"],
        ),
        ("classification", MNLI.labels[::-1], "classification", ["contradiction, neutral, entailment", "task.labels"]),
        ("classification", MNLI.labels, "regression", ["stsb needs one for one number", "model.new_head to true"]),
        ("regression", (), "classification", ["has a head for LABEL_0, and mnli needs one for entailment"]),
        ("tokens", ("O", "B", "I", "E"), "tokens", ["a head for O, B, I, E", "needs one for O, B, I"]),
    ],
)
def test_another_head_is_refused_and_drawn_anew_where_that_is_asked_for(folders, head, labels, kind, words):
    init = folders("bert", head, labels=labels)
    with pytest.raises(ModelError) as refused:
        build(init, kind)
    assert all(word in str(refused.value) for word in [init, *words]), refused.value
    built = build(init, kind, new_head=True)
    outputs = {"classification": 3, "regression": 1, "tokens": 3, "questions": 2}[kind]
    head_weight = "qa_outputs.weight" if kind == "questions" else "classifier.weight"
    assert built.model.get_parameter(head_weight).shape[0] == outputs and head_weight in built.drawn
    assert not any(name.startswith("bert.encoder") for name in built.drawn)


def test_a_new_head_is_new_also_where_the_old_one_would_fit(folders):
    """The order of the classes is another: what the old one has learned would be wrong."""
    init = folders("bert", "classification", labels=MNLI.labels[::-1])
    built = build(init, new_head=True)
    assert {"classifier.weight", "classifier.bias"} <= built.drawn
    assert not torch.equal(
        built.model.classifier.weight, small_model("bert", labels=MNLI.labels[::-1]).classifier.weight
    )


def test_what_cannot_be_read_is_named_with_what_to_do(folders, tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        build(str(tmp_path / "nowhere"))
    damaged = save_model(tmp_path / "damaged", small_model("bert", "mlm"))
    (damaged / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=f"model folder {damaged} cannot be loaded"):
        build(str(damaged))


def test_an_encoder_that_lacks_weights_is_refused(edited):
    init = edited(lambda config: config.update(num_hidden_layers=3), "bert", "mlm")
    with pytest.raises(ModelError, match="16 weights are missing: bert.encoder.layer.2.*it is no pre-trained bert"):
        build(init)


def test_an_architecture_without_a_row_is_refused(edited):
    with pytest.raises(AdapterError, match="edited: no adapter for model_type 'albert': expected one of bert"):
        build(edited(lambda config: config.update(model_type="albert"), "bert", "mlm"))


# ---- models that are finished --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_finished_model_comes_back_frozen(folders, model_type, kind):
    model = load_task_model(folders(model_type, kind), kind)
    assert head_of(model.config) == type(model).__name__
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    same = small_model(model_type, kind).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("head", "kind", "words"),
    [
        ("mlm", "classification", "is no task model; this task needs a BertForSequenceClassification"),
        ("questions", "tokens", "is a BertForQuestionAnswering; this task needs a BertForTokenClassification"),
        ("tokens", "questions", "is a BertForTokenClassification; .* give a model that was fine-tuned on it"),
    ],
)
def test_a_model_of_another_kind_is_no_finished_one(folders, head, kind, words):
    with pytest.raises(ModelError, match=words):
        load_task_model(folders("bert", head), kind)


def test_a_finished_model_must_be_complete(edited):
    init = edited(lambda config: config.update(num_hidden_layers=3), "bert", "classification")
    with pytest.raises(ModelError, match="16 weights are missing: .*it must be complete"):
        load_task_model(init, "classification")


# ---- teachers -------------------------------------------------------------------------------------


def load_teacher(init, kind="classification", *, words=VOCABULARY, labels=None):
    task = TASKS[kind]
    settings = TaskTeacherConfig(init=init, labels=labels)
    return load_task_teacher(settings, task, task.labels, tokenizer(words), "sdpa")


def accuracy(model, order, labels):
    """Of the teacher's answers in our order, where `labels` are ours."""
    batch, _ = batch_of(random_rows("classification", 40), "classification")
    return (TaskTeacher(model, "classification", order).targets(batch).argmax(-1) == labels).float().mean().item()


SPELLINGS = [
    ("contradiction", "entailment", "neutral"),
    ("CONTRADICTION", "Entailment", "Neutral"),
    ("contra-diction", "ENTAIL_MENT", "neu tral"),
]


@pytest.mark.parametrize("theirs", SPELLINGS)
def test_a_teacher_with_permuted_classes_keeps_its_accuracy(folders, theirs):
    """OFA-20: MNLI's classes have three orders in published models; rows are labelled by what the teacher means."""
    init = folders("bert", "classification", labels=theirs)
    batch, _ = batch_of(random_rows("classification", 40), "classification")
    stock = load_task_model(init, "classification")
    meant = [
        MNLI.labels.index(SPELLINGS[0][number])
        for number in TaskTeacher(stock, "classification", None).targets(batch).argmax(-1)
    ]
    model, order = load_teacher(init)
    assert order == [1, 2, 0] and len(set(meant)) == 3
    assert accuracy(model, order, torch.tensor(meant)) == 1.0
    assert accuracy(model, None, torch.tensor(meant)) < 0.5, "as they are, its classes mean something else"


def test_a_teacher_in_our_order_is_read_as_it_is(folders):
    assert load_teacher(folders("bert", "classification", labels=MNLI.labels))[1] is None
    for kind in ("regression", "questions"):
        assert load_teacher(folders("bert", kind), kind)[1] is None


def test_a_teacher_without_names_is_taken_in_our_order_with_a_warning(folders, caplog):
    """OFA-20: nothing in the file says whether that is right."""
    init = folders("bert", "classification", labels=("LABEL_0", "LABEL_1", "LABEL_2"))
    assert load_teacher(init)[1] is None
    assert "classes without names: taken in the order entailment, neutral, contradiction" in caplog.text
    assert "teacher.labels" in caplog.text


def test_a_teachers_order_can_be_given(folders, caplog):
    init = folders("bert", "classification", labels=("LABEL_0", "LABEL_1", "LABEL_2"))
    assert load_teacher(init, labels=["contradiction", "neutral", "entailment"])[1] == [2, 1, 0]
    assert "without names" not in caplog.text


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("yes", "maybe", "no"), "has the classes yes, maybe, no, expected entailment, .* as teacher.labels"),
        (("entailment", "neutral", "other"), "missing: contradiction"),
        (("entailment", "Entailment", "neutral"), "missing: contradiction"),
        (("entailment", "not_entailment"), r"has 2 classes \(entailment, not_entailment\), expected 3"),
    ],
)
def test_a_teacher_with_other_classes_is_refused(folders, labels, words):
    """OFA-20"""
    with pytest.raises(ModelError, match=words):
        load_teacher(folders("bert", "classification", labels=labels))


def test_two_names_that_are_one_without_case_and_spaces_are_told_apart_from_a_permutation():
    with pytest.raises(ModelError, match="has the classes a, b, A, expected a, b, c"):
        class_order(["a", "b", "c"], ["a", "b", "A"], "it")


def test_a_teacher_with_another_number_of_outputs_is_refused(folders):
    """A head for numbers has the class of one for classes."""
    with pytest.raises(ModelError, match=r"has 1 classes \(LABEL_0\), expected 3"):
        load_teacher(folders("bert", "regression"))
    with pytest.raises(ModelError, match="has 3 outputs, stsb needs one"):
        load_teacher(folders("bert", "classification"), "regression")


def test_a_teacher_with_another_vocabulary_is_refused(folders):
    """OFA-20: as many words, one of them another; and one more."""
    init = folders("bert", "classification", labels=MNLI.labels)
    for words, count in (((*VOCABULARY[:-1], "other"), 26), ((*VOCABULARY, "more"), 27)):
        with pytest.raises(ModelError, match=rf"another vocabulary .*\({len(VOCABULARY)} and {count} entries; "):
            load_teacher(init, words=words)


@pytest.mark.parametrize(
    ("ours", "theirs", "order"),
    [
        (["0", "1"], ["1", "0"], [1, 0]),
        (["2", "1"], ["1", "2"], [1, 0]),
        (["negative", "positive"], ["0", "1"], None),
        (["a b", "ab"], ["ab", "a b"], [1, 0]),
    ],
)
def test_classes_called_by_numbers_are_names_where_the_task_has_the_same(ours, theirs, order):
    """OFA-20: an order of stars or of 0 and 1 is an order like any other."""
    assert class_order(ours, theirs, "it") == order


def test_a_head_for_the_same_numbers_in_another_order_is_refused(tmp_path):
    save_model(tmp_path, small_model("bert", "classification", labels=["1", "2"]))
    with pytest.raises(ModelError, match="put task.labels in that order"):
        build_task_model(TaskModelConfig(init=str(tmp_path)), MNLI, ["2", "1"], seed=0)
