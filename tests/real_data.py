"""The archives of real data that OFA_TEST_DATA names."""

import lzma
import os
import tarfile
from pathlib import Path

import pytest


def unpacked(archive: str, folder: Path) -> Path:
    """`folder`, with the files of an archive; skips the test where there is none."""
    path = Path(os.environ.get("OFA_TEST_DATA", ""), archive)
    if "OFA_TEST_DATA" not in os.environ or not path.is_file():
        pytest.skip(f"OFA_TEST_DATA has no {archive}")
    with lzma.open(path) as packed, tarfile.open(fileobj=packed) as tar:
        tar.extractall(folder, filter="data")
    return folder
