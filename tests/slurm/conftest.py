"""The cluster that the tests of a file share."""

import pytest

from tests.slurm.cluster import Cluster, missing


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A real Slurm of two nodes."""
    why = missing()
    if why is not None:
        pytest.skip(why)
    running = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        running.start()
        yield running
    finally:
        running.stop()
