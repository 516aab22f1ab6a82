"""What is refused by the config.json of models alone, before a row is read: the files of these tasks cannot be read."""

import pytest

from ofa.config import CofiConfig, CofiMlmConfig, FinetuneConfig
from ofa.data.tasks import TaskError
from ofa.downstream.cofi.finalise import BudgetError
from ofa.downstream.cofi.run import check_inputs as check_cofi
from ofa.downstream.inputs import check_inputs
from ofa.models.blocks import sizes_of
from ofa.models.materialise import materialise
from ofa.models.place import ModelError
from tests.structures import random_masks
from tests.task_parts import save_model, small_model

RTE = ("entailment", "not_entailment")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """models(name) -> folder of a small model: `base`, `questions`, `rte`, `three` classes, one `number`."""
    folder, made = tmp_path_factory.mktemp("models"), {}
    build = {
        "base": lambda: small_model(head="pre-training"),
        "questions": lambda: small_model(head="questions"),
        "rte": lambda: small_model(labels=RTE),
        "three": lambda: small_model(labels=("a", "b", "c")),
        "number": lambda: small_model(head="regression"),
    }

    def get(name):
        if name not in made:
            made[name] = str(save_model(folder / name, build[name]()))
        return made[name]

    return get


@pytest.fixture
def values(tmp_path):
    """values(init, teacher, task) -> a config over files that hold no rows of any task."""
    for split in ("train", "dev"):
        (tmp_path / f"{split}.tsv").write_text("this is no table of RTE\n")

    def make(init, teacher=None, **task):
        return {
            "model": {"init": init},
            "task": {"name": "rte", "path": str(tmp_path), "max_length": 24, **task},
            "batch": {"global_size": 4, "micro_size": 2},
            "optimizer": {"lr": 1e-3},
            **({"teacher": {"init": teacher}} if teacher else {}),
        }

    return make


def check(values, **sections):
    """Through the door of fine-tuning."""
    check_inputs(FinetuneConfig.model_validate({**values, **sections}), "auto")


@pytest.mark.parametrize(
    ("init", "teacher", "words"),
    [
        ("questions", None, "is a BertForQuestionAnswering, and rte needs a BertForSequenceClassification"),
        ("three", None, "has a head for a, b, c, and rte needs one for entailment, not_entailment"),
        ("base", "base", "is no task model; this task needs a BertForSequenceClassification"),
        ("base", "questions", "is a BertForQuestionAnswering; this task needs"),
        ("base", "three", "has 3 classes .*expected 2: entailment, not_entailment"),
        ("base", "number", "has 1 classes"),
    ],
)
def test_a_model_of_another_task_is_refused_before_rows_are_read(models, values, init, teacher, words):
    with pytest.raises(ModelError, match=words):
        check(values(models(init), teacher and models(teacher)))


def test_what_fits_is_let_through_to_the_rows(models, values):
    for init, teacher in (("base", None), ("base", "rte"), ("rte", "rte")):
        with pytest.raises(TaskError):
            check(values(models(init), teacher and models(teacher)))


def test_a_wrong_head_is_said_before_rows_that_are_too_long(models, values):
    with pytest.raises(ModelError, match="is a BertForQuestionAnswering"):
        check(values(models("questions"), max_length=500))
    with pytest.raises(ModelError, match="is a BertForQuestionAnswering"):
        check(values(models("base"), models("questions"), max_length=48))
    with pytest.raises(ModelError, match="task.max_length is 500"):
        check(values(models("base"), max_length=500))


def test_classes_that_the_rows_name_are_not_guessed(models, values):
    """Only the head's kind is known then."""
    own = {"name": "text_classification", "text_column": "t", "label_column": "l", "train": ["train.tsv"]}
    own["validation"] = ["dev.tsv"]
    with pytest.raises(TaskError):
        check(values(models("three"), models("three"), **own))
    with pytest.raises(ModelError, match="is a BertForQuestionAnswering"):
        check(values(models("base"), models("questions"), **own))


def test_masks_that_change_to_the_end_are_refused_before_rows_are_read(models, values):
    pruning = {"sparsity": 0.5, "ramp_end": 4, "end": 8, "frequency": 2}
    with pytest.raises(ValueError, match="last refresh of the masks is at step 8 and the run has 8 steps"):
        check(values(models("base")), lock=False, pruning=pruning, schedule={"total_steps": 8})


def test_stages_that_do_not_fit_are_refused_before_rows_are_read_where_their_number_is_known(models, values):
    """A part of the rows is of known size; of questions a row is a window, and nobody knows how many there are."""
    stages = {"structure": {"sparsity": 0.5, "begin_epochs": 1, "ramp_epochs": 2}, "schedule": {"total_steps": 30}}
    config = CofiConfig.model_validate({**values(models("base"), train_rows=40), **stages})
    with pytest.raises(ValueError, match="come to 30 steps, and schedule gives all of pruning 30"):
        check_cofi(config, "auto")
    for task in ({"train_rows": 36}, {}):
        with pytest.raises(TaskError):
            check_cofi(CofiConfig.model_validate({**values(models("base"), **task), **stages}), "auto")


@pytest.mark.parametrize(
    ("structure", "words"),
    [
        ({"sparsity": 0.5, "multiple": 7}, "32 intermediate dimensions cannot be kept in multiples of 7"),
        ({"sparsity": 0.5, "multiple": 7, "cost": "latency"}, "32 intermediate dimensions cannot be kept"),
        ({"sparsity": 0.6, "intermediate": False, "layers": False}, "a sparsity of 0.6 in weights is out of reach"),
        (
            {"sparsity": 0.9, "heads": False, "layers": False, "cost": "macs", "length": 16},
            "a sparsity of 0.9 in multiply-adds at length 16 is out of reach",
        ),
    ],
)
def test_a_structure_that_sizes_rule_out_is_refused_before_rows_are_read(models, values, structure, words):
    """For masked words too, whose corpus is not there."""
    config = CofiConfig.model_validate({**values(models("base")), "structure": structure})
    with pytest.raises(BudgetError, match=words):
        check_cofi(config, "auto")
    own = {name: value for name, value in values(models("base")).items() if name != "task"}
    own["model"]["architecture"] = {}
    own |= {"data": {"path": "nowhere", "sequence_length": 48}, "schedule": {"total_steps": 9}}
    own |= {"finetune": {"steps": 1}, "structure": {**structure, "begin_steps": 1, "ramp_steps": 1}}
    with pytest.raises(BudgetError, match=words):
        check_cofi(CofiMlmConfig.model_validate(own), "auto")


def test_a_target_that_weights_decide_is_let_through_to_the_rows(models, values):
    structure = {"sparsity": 0.6, "intermediate": False, "layers": False, "cost": "nnz"}
    config = CofiConfig.model_validate({**values(models("base")), "structure": structure, "lock": True})
    with pytest.raises(TaskError):
        check_cofi(config, "auto")


def test_a_compact_model_is_not_cut_again_which_its_config_says(values, tmp_path):
    dense = small_model(head="pre-training")
    small = materialise(dense, random_masks(sizes_of(dense)), "skip")
    init = str(save_model(tmp_path / "small", small))
    config = CofiConfig.model_validate({**values(init), "structure": {"sparsity": 0.5}})
    with pytest.raises(ValueError, match="is a compact model already"):
        check_cofi(config, "auto")
