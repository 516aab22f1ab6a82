"""Fixtures over `tests.corpora`."""

import pytest

from tests.corpora import build_run_config, write_corpus


@pytest.fixture
def make_corpus(tmp_path):
    """make_corpus(...) -> an opened corpus of random rows."""

    def make(**wanted):
        return write_corpus(tmp_path / f"corpus{len(list(tmp_path.iterdir()))}", **wanted)

    return make


@pytest.fixture(scope="session")
def run_config():
    """run_config(...) -> RunConfig."""
    return build_run_config
