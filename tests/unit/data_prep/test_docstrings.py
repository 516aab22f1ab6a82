"""The docstrings source, on an invented distribution."""

import pytest

from data_prep import docstrings
from data_prep.documents import DataPrepError
from data_prep.tally import Tally
from ofa.config import DataPrepConfig, SourceConfig, load

MODULE = '''"""Module text."""
raise RuntimeError("this module must not be imported")

class Outer:
    """Class text.

        Indented.
    """
    def method(self):
        "Method text."
        def inner():
            """Inner text."""
    class Nested:
        """Nested text."""
        async def run(self): """Async text."""

if True:
    def hidden():
        """Not in a body."""

def plain():
    x = """No docstring."""
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution `madeup` 1.5 with two modules, a broken file and a test."""
    files = {
        "madeup/__init__.py": MODULE,
        "madeup/other.py": '"""Other text."""',
        "madeup/broken.py": '"""Broken."""\ndef (',
        "madeup/tests/test_it.py": '"""A test."""',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    info = tmp_path / "madeup-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: madeup\nVersion: 1.5\n")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*files, "madeup/gone.py"]))
    monkeypatch.syspath_prepend(str(tmp_path))
    return SourceConfig(kind="docstrings", distributions=["madeup"])


def read(source):
    """Documents of the invented distribution, and the counts."""
    counts = Tally()
    units = docstrings.units(source, 0)
    wanted = [unit.inputs[i : i + 1] for unit in units for i in range(len(unit.inputs)) if "madeup" in unit.inputs[i]]
    found = [one for inputs in wanted for one in docstrings.read(source, docstrings.Unit(inputs, 0), counts)]
    return found, counts


def test_docstrings_of_modules_classes_and_functions_are_read_without_importing(installed):
    documents, _ = read(installed)
    assert [one.text for one in documents] == [
        "Module text.",
        "Class text.\n\nIndented.",
        "Method text.",
        "Inner text.",
        "Nested text.",
        "Async text.",
        "Other text.",
    ]
    assert documents[5].meta == {"distribution": "madeup", "name": "madeup.Outer.Nested.run"}


def test_the_group_is_the_module(installed):
    documents, _ = read(installed)
    assert [one.group for one in documents] == ["madeup"] * 6 + ["madeup.other"]
    assert len({one.id for one in documents}) == 7


def test_files_that_do_not_parse_are_counted(installed):
    _, counts = read(installed)
    assert counts == {"files": 3, "unreadable_files": 1}


def test_versions_are_recorded(installed):
    versions = docstrings.versions(installed)
    assert versions["madeup"] == "1.5" and versions["python"].count(".") == 2


def test_a_missing_distribution_is_named_with_the_remedy():
    source = SourceConfig(kind="docstrings", distributions=["no-such-thing"])
    with pytest.raises(DataPrepError, match="no-such-thing is not installed .* pip install no-such-thing"):
        docstrings.units(source, 0)


def test_everything_that_the_default_reads_is_installed():
    """The shipped list names distributions that the project's own installation brings."""
    config = load(DataPrepConfig, "tiny/docstrings.json")
    units = docstrings.units(config.source, config.shard_characters)
    assert sum(unit.bytes for unit in units) > 100_000_000
