"""Exact duplicates by hash."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.clean import fingerprint
from data_prep.dedup import duplicates


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 40) | st.integers(0, 2**64 - 1), max_size=30), min_size=1, max_size=6),
    st.sampled_from([1, 3, 10, 1000]),
)
def test_duplicates_are_what_a_set_finds(files, partition):
    seen, expected = set(), []
    for hashes in files:
        expected.append([i for i, value in enumerate(hashes) if value in seen or seen.add(value)])
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name, str(number)) for number in range(len(files))]
        for path, hashes in zip(paths, files, strict=True):
            np.array(hashes, "<u8").tofile(path)
        assert [found.tolist() for found in duplicates(paths, partition)] == expected


def test_white_space_does_not_make_a_text_another():
    assert fingerprint("One  two\n\nthree ") == fingerprint("One two three")
    assert fingerprint("One two three") != fingerprint("One twothree")
