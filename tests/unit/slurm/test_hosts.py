"""Lists of nodes, held against Slurm's own command where it is installed."""

import os
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.slurm.errors import SubmitError
from ofa.slurm.hosts import hosts


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("n[08-11,15],login", ["n08", "n09", "n10", "n11", "n15", "login"]),
        ("a-b[1],gpu.site", ["a-b1", "gpu.site"]),
        ("r[1-2]n[3-4]", ["r1n3", "r1n4", "r2n3", "r2n4"]),
        ("", []),
    ],
)
def test_a_list_is_read_in_its_order(text, names):
    assert hosts(text) == names


@pytest.mark.parametrize("text", ["n[1-", "n[]", "n[a-b]", "n[1]]", "n[1-2-3]", ",n1", "n[3-1]", " n1 , n2", "n1,n2\n"])
def test_what_is_no_list_is_refused_whole(text):
    with pytest.raises(SubmitError, match="Slurm's list of nodes"):
        hosts(text)


prefixes = st.from_regex(r"[a-z]{1,3}(-[a-z]{1,2})?", fullmatch=True)


@st.composite
def numbers(draw):
    """What stands in brackets: `08-11,15`."""
    width = draw(st.integers(1, 3))
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        first = draw(st.integers(0, 10**width - 1))
        last = first + draw(st.integers(0, 12))
        parts.append(f"{first:0{width}}" + (f"-{last:0{width}}" if draw(st.booleans()) else ""))
    return f"[{','.join(parts)}]"


patterns = st.one_of(
    prefixes,
    st.tuples(prefixes, st.integers(0, 30).map(str)).map("".join),
    st.tuples(prefixes, numbers()).map("".join),
    st.tuples(prefixes, numbers(), prefixes, numbers()).map("".join),
)


@pytest.fixture(scope="module")
def scontrol(tmp_path_factory):
    """`scontrol show hostnames`, which needs a config and no controller."""
    if shutil.which("scontrol") is None:
        pytest.skip("Slurm's commands are not installed")
    config = tmp_path_factory.mktemp("slurm") / "slurm.conf"
    config.write_text("ClusterName=test\nSlurmctldHost=localhost\n")

    def call(text):
        env = {**os.environ, "SLURM_CONF": str(config)}
        command = ["scontrol", "show", "hostnames", text]
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.split()

    return call


@settings(max_examples=60, deadline=None)
@given(st.lists(patterns, min_size=1, max_size=4).map(",".join))
def test_slurm_reads_the_same(scontrol, text):
    assert hosts(text) == scontrol(text)
