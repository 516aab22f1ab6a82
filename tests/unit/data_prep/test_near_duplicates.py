"""Near duplicates through datatrove: the same whatever the workers and however often the run was killed."""

import json
import random
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

from data_prep.near_duplicates import SLICE, later_of_clusters, signature_step
from ofa.config import CHECKOUT
from ofa.data.shards import Corpus
from tests.unit.data_prep.test_pipeline import documents_of

pytest.importorskip("datatrove")

FILES, EACH = 6, 25


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Documents of 200 words; every fifth is an earlier one with one word in thirty changed; one is an exact copy."""
    folder = tmp_path_factory.mktemp("near") / "text"
    folder.mkdir()
    draw = random.Random(3)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 8))) for _ in range(3000)]
    texts: list[list[str]] = []
    for number in range(FILES):
        with (folder / f"{number}.jsonl").open("w") as file:
            for index in range(EACH):
                texts.append(draw.choices(words, k=200))
                if index % 5 == 4:
                    texts[-1] = list(texts[draw.randrange(len(texts) - 1)])
                    for place in draw.sample(range(200), 6 if index > 4 else 0):
                        texts[-1][place] = draw.choice(words)
                file.write(json.dumps({"id": f"{number}-{index}", "text": " ".join(texts[-1])}) + "\n")
    return folder


def config_of(tools, text):
    """Near duplicates go."""
    clean = {"near_duplicates": True}
    return tools.config_for(text, clean=clean, source={"group_field": None}, tokenizer={"vocab_size": 300})


@pytest.fixture(scope="module")
def prepared(tools, text, tmp_path_factory):
    """Prepared by two workers, undisturbed."""
    output = tmp_path_factory.mktemp("prepared") / "out"
    tools.run(config_of(tools, text), output, 2)
    return output


def test_the_first_of_documents_that_are_nearly_the_same_stays(prepared):
    statistics = Corpus.open(prepared).manifest["statistics"]
    assert statistics["dropped_duplicate"] == FILES
    changed = FILES * EACH // 5 - FILES
    assert 0.6 * changed <= statistics["dropped_near_duplicate"] <= changed
    kept = {one["id"] for one in documents_of(prepared)}
    assert kept >= {f"{number}-{index}" for number in range(FILES) for index in range(EACH) if index % 5 != 4}
    assert not (prepared / ".work").exists()


@pytest.mark.parametrize("workers", [1, 5])
def test_the_number_of_workers_changes_no_byte(tools, text, prepared, tmp_path, workers):
    tools.run(config_of(tools, text), tmp_path / "other", workers)
    assert tools.sums(tmp_path / "other") == tools.sums(prepared)


@pytest.mark.parametrize(
    "stage", ["minhash/logs/signatures/completions/*", "minhash/logs/matches/completions/*", "near_duplicates/*.npy"]
)
def test_a_killed_run_continues_and_ends_with_the_same_bytes(tools, text, prepared, tmp_path, stage):
    config = config_of(tools, text)
    for attempt in range(5):
        output = tmp_path / f"out{attempt}"
        process = tools.start(config, tmp_path, output)
        while not list((output / ".work").glob(stage)) and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if not (output / "manifest.json").exists():
            break
    assert (output / ".work").is_dir()
    tools.run(config, output, 1)
    assert tools.sums(output) == tools.sums(prepared)


def test_of_a_cluster_the_first_in_order_stays_wherever_it_is(tmp_path):
    np.array([[4, 7], [1, 9], [2, 7]], "<u4").tofile(tmp_path / "000000.clusters")
    np.array([[0, 9], [3, 5]], "<u4").tofile(tmp_path / "000002.clusters")
    assert [found.tolist() for found in later_of_clusters(tmp_path, 3)] == [[4], [], [0]]


@pytest.mark.parametrize("runs", [1, SLICE, SLICE + 1, 3 * SLICE - 1])
def test_the_signature_of_a_long_document_is_datatroves(tmp_path, runs):
    step = signature_step(tmp_path)
    shingles = np.random.default_rng(runs).integers(0, 2**63, (runs, 1), dtype=np.uint64)
    assert step.get_signature(shingles) == super(type(step), step).get_signature(shingles)


def test_memory_for_a_signature_does_not_grow_with_the_document(tmp_path):
    """All at once would take 224 MB a hundred thousand runs."""
    step = signature_step(tmp_path)
    shingles = np.random.default_rng(1).integers(0, 2**63, (100_000, 1), dtype=np.uint64)
    tracemalloc.start()
    step.get_signature(shingles)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


@pytest.mark.parametrize(
    ("limits", "said"),
    [("ulimit -Sn 60", "(250, True)"), ("ulimit -n 60", "reads 150 files side by side, and a process may open 60")],
)
def test_files_that_may_be_open_are_as_many_as_there_are_units(limits, said):
    program = (
        "import resource\n"
        "from data_prep.near_duplicates import allow_open_files\n"
        "allow_open_files(150)\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "print((soft, hard >= soft))"
    )
    command = f"{limits}; exec {sys.executable} -c '{program}' 2>&1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=CHECKOUT)
    assert said in done.stdout
