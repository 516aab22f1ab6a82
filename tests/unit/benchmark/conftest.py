"""Models to compare, made once."""

import pytest

from tests.benchmark_models import write_models


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """See `tests.benchmark_models`."""
    return write_models(tmp_path_factory.mktemp("compared"))
