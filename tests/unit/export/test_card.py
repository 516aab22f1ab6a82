"""Cards of task models: what they say is the recipe's, and their code runs."""

import json
import re

import pytest
import torch

from ofa.data.tasks import TASKS
from ofa.export.card import model_card
from tests.processes import answered_no

KINDS = {"rte": "classification", "stsb": "regression", "squad": "questions"}


def card(folder):
    """The card with its line breaks as spaces, and its Python code."""
    text = (folder / "README.md").read_text()
    return " ".join(text.split()), "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.S))


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("how", ["locked", "pruned", "dense", "compact"])
def test_the_code_of_a_task_models_card_runs_and_keeps_the_zeros(exported_task, task, how):
    folder = exported_task(task, how)
    names = {}
    exec(compile(card(folder)[1].replace("path/to/this/folder", str(folder)), "README.md", "exec"), names)
    assert TASKS[task].kind == KINDS[task] and ("keep_zeros" in names) == (how != "dense")
    if how == "dense":
        return
    with torch.no_grad():
        for weight in names["model"].parameters():
            weight.sub_(1.0)
    names["keep_zeros"]()
    assert all(not names["parameters"][name][places].any() for name, places in names["dropped"].items())


def test_the_code_of_a_compact_models_card_asks_nothing_in_a_terminal(exported_task, tmp_path):
    """In a process that knows nothing of us, which transformers asks whether to run the folder's code."""
    folder = exported_task("rte", "compact")
    code = card(folder)[1].partition("import json")[0].replace("path/to/this/folder", str(folder))
    assert answered_no(code, tmp_path) == ""


WORDS = {
    "locked": ("90 % zeros kept", "Every zero of that model was kept", "drawn anew", "`bert.pooler.dense.weight`"),
    "pruned": ("pruned to 90 % zeros", "pruned on the way", "Gradual magnitude pruning: 90 %"),
    "dense": ("all weights trained", "no zero was kept or made"),
}


@pytest.mark.parametrize("how", WORDS)
def test_the_card_says_what_became_of_the_zeros_and_what_the_model_scores(exported_task, how):
    text, _ = card(exported_task("rte", how))
    for words in (
        *WORDS[how],
        "text classification, task `rte`",
        "| validation | 0.7500 | 0.5000 |",
        "Step 30 was exported",
    ):
        assert words in text
    assert ("| encoder layers |" in text) == (how != "dense")
    assert "loss: 1 x label loss" in text and "None" not in text


@pytest.mark.parametrize("hidden", [None, 12])
def test_the_card_of_a_structurally_pruned_model_says_what_is_left(exported_task, hidden):
    recipe = json.loads((exported_task("rte", "compact") / "recipe.json").read_text())
    counts = {"heads.layer_1": 1, "heads.layer_2": 0, "dims.layer_1": 1024, "dims.layer_2": 8}
    recipe["structure"] = {
        "structural_sparsity": 0.9313,
        "cost_sparsity": 0.9412,
        **counts,
        **({"hidden": hidden} if hidden else {}),
    }
    recipe["config"]["structure"] = {"method": "gates", "sparsity": 0.94, "cost": "macs"}
    recipe["config"]["objective"]["layer_weight"] = 0.9
    text = model_card(recipe)
    assert "93.1 % of its structure pruned, 89.8 % zeros kept" in text.splitlines()[0]
    assert "94.12% of the encoder's multiply-adds are gone, with 93.13% of its structure's weights." in text
    assert "\n| 1 | 1 | 1,024 |\n| 2 | 0 | 8 |\n" in text
    assert "learned gates (CoFi, Xia et al., 2022); asked for: 94 % of the encoder's multiply-adds" in text
    assert "0.9 x distance to the teacher's layers" in text
    assert ("12 are left" in text) == (hidden is not None)


def test_scores_of_questions_are_in_percent(exported_task):
    assert "in percent" in card(exported_task("squad"))[0]
