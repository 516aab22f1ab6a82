"""What the README shows is taken from it and tried: configs parse, and models load as it says."""

import json
import re

import pytest
import torch

from ofa.config import CONFIGS, kind_of, load
from tests.processes import answered_no

README = (CONFIGS.parent / "README.md").read_text()
NAMED = re.compile(r"`(my_\w+\.json)`[^`]*:\n\n((?:    .*\n)+)")
"""A config of the reader's own: its name, then its text."""


def example(marker):
    """The Python block behind a marker."""
    found = re.search(rf"<!-- {re.escape(marker)} -->\s*```python\n(.*?)```", README, re.S)
    assert found is not None, f"README.md has no marker <!-- {marker} -->"
    return found.group(1)


def configs():
    """All of them, by name."""
    found = {}
    for name, text in NAMED.findall(README):
        found[name] = json.loads(text.split("\n\n")[0])
    return found


def test_there_is_one_for_each_way_to_begin():
    assert configs().keys() >= {"my_task.json", "my_ner.json", "my_small.json"}


@pytest.mark.parametrize("name", configs())
def test_configs_of_the_readers_own_parse(tmp_path, name):
    for other, values in configs().items():
        (tmp_path / other).write_text(json.dumps(values))
    kind = kind_of(tmp_path / name)
    assert kind is not None and load(kind, tmp_path / name)


def test_models_load_in_the_lines_that_are_shown(exported_task, tmp_path):
    """A fine-tuned one and a compact one, of a task of two classes."""
    code = example("example: load")
    for how, shown in (("locked", "runs/my_task/model"), ("compact", "runs/my_small/model")):
        folder = exported_task("mrpc", how).rename(tmp_path / how)
        assert shown in code
        code = code.replace(shown, str(folder))
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert type(names["small"]).__name__.startswith("Compact")
    for model, tokenizer in (("model", "tokenizer"), ("small", "its_tokenizer")):
        assert torch.isfinite(names[model](**names[tokenizer]("a b", return_tensors="pt")).logits).all()
    assert answered_no(code, tmp_path) == "", "a terminal would have been asked"
