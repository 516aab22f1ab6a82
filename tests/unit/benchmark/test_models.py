"""Which models are compared, what they are known by, and what is refused before anything is timed."""

import json
import operator
import os
import shutil
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import zstandard

from ofa.benchmark.measure import Setting, measure_memory, measure_times, turn
from ofa.benchmark.models import (
    FP32,
    INT8,
    SIMULATED,
    BenchmarkError,
    Place,
    check_together,
    described,
    places_of,
)
from ofa.benchmark.process import in_fresh_process
from ofa.benchmark.rows import random_batch
from ofa.benchmark.scoring import Asked, score, sections
from ofa.downstream.evaluate_model import evaluate_model
from ofa.export.hf import ExportError
from ofa.export.weights import read_weights
from ofa.files import zstd_size
from ofa.inference import load
from ofa.runtimes.export_file import EXPORT_FILE
from tests.commands import flip
from tests.inference_cases import ROWS, write_case


@pytest.fixture(scope="module")
def known(folders):
    """What is said of the models, by (name, runtime)."""
    places = places_of([str(folders.project / "dense")])
    for name in ("sparse", "int8"):
        places += places_of([f"{folders.project / name / 'model'}", f"{folders.project / name / 'onnx'}"])
    return {place.key: described(place) for place in places}


def test_a_run_folder_is_its_model_and_its_exports(folders):
    project = folders.project
    found = places_of(
        [f"base={project / 'dense'}", str(project / "sparse" / "onnx"), f"x={project / 'int8' / 'model'}"]
    )
    assert [place.key for place in found] == [
        ("base", "torch"),
        ("base", "onnx"),
        ("base", "openvino"),
        ("sparse", "onnx"),
        ("x", "torch"),
    ]
    with pytest.raises(BenchmarkError, match=r"base on torch is both .*dense/model and .*sparse/model: .*NAME=FOLDER"):
        places_of([f"base={project / 'dense'}", f"base={project / 'sparse' / 'model'}"])


def test_folders_of_sweeps_have_equal_signs_in_their_names(folders, tmp_path, monkeypatch):
    cell = tmp_path / "sweep" / "cofi-sparsity=0.6-seed=1"
    shutil.copytree(folders.project / "dense" / "model", cell / "model")
    assert [place.name for place in places_of([f"x={cell}/model", f"{cell}/model"])] == ["x", cell.name]
    monkeypatch.chdir(tmp_path / "sweep")
    assert [place.name for place in places_of([f"{cell.name}/model"])] == [cell.name]


def test_zeros_precision_and_sizes_are_those_of_the_files(folders, known):
    """OFA-37 as the report has it: the zeros of an export are the model's; its file has these at least."""
    zeros = {name: known[name, "torch"].zeros for name in ("dense", "sparse", "int8")}
    folder = folders.project / "sparse" / "model"
    scoped = [w for name, w in read_weights(folder) if w.dim() == 2 and ("encoder" in name or "pooler" in name)]
    assert zeros["sparse"] == sum(int((w == 0).sum()) for w in scoped) and zeros["dense"] == 0
    assert known["sparse", "torch"].weights == sum(w.numel() for w in scoped)
    assert known["sparse", "onnx"].zeros == known["sparse", "onnx"].file_zeros == zeros["sparse"]
    assert known["int8", "onnx"].zeros == zeros["int8"] <= known["int8", "onnx"].file_zeros
    precisions = {key: one.precision for key, one in known.items()}
    assert precisions["sparse", "onnx"] == precisions["dense", "torch"] == FP32
    assert (precisions["int8", "torch"], precisions["int8", "onnx"]) == (SIMULATED, INT8)
    assert known["dense", "onnx"].file_bytes == (folders.project / "dense" / "onnx" / "model.onnx").stat().st_size
    assert known["dense", "openvino"].file_bytes == sum(
        path.stat().st_size for path in (folders.project / "dense" / "openvino").glob("openvino_model.*")
    )
    assert known["dense", "torch"].zstd_bytes > known["sparse", "torch"].zstd_bytes
    assert known["dense", "torch"].came_from == known["dense", "openvino"].came_from


def test_zeros_of_an_export_are_the_models_and_its_files_beside_them(folders, tmp_path):
    export = shutil.copytree(folders.project / "int8" / "onnx", tmp_path / "onnx")
    said = json.loads((export / EXPORT_FILE).read_text())
    said["zeros"] |= {"weights": 1000, "model": 800, "file": 803}
    (export / EXPORT_FILE).write_text(json.dumps(said))
    (place,) = places_of([str(export)])
    found = described(place)
    assert (found.weights, found.zeros, found.file_zeros) == (1000, 800, 803)
    assert (found.sparsity, found.file_sparsity) == (0.8, 0.803)


def test_the_packed_size_is_that_of_the_packed_file(tmp_path):
    data = np.random.default_rng(0).integers(0, 9, 3_000_000).astype(np.int8).tobytes()
    (tmp_path / "file").write_bytes(data)
    packed = zstandard.ZstdCompressor(level=3).compress(data)
    assert zstd_size(tmp_path / "file") == pytest.approx(len(packed), abs=16), "but for the length in the header"


def test_models_of_one_vocabulary_get_the_same_rows_without_padding(folders):
    one, other = (load(folders.project / name, device="cpu") for name in ("dense/model", "sparse/onnx"))
    rows = random_batch(one, 3, 50, seed=4)
    assert torch.equal(rows.input_ids, random_batch(other, 3, 50, seed=4).input_ids)
    assert not torch.equal(rows.input_ids, random_batch(one, 3, 50, seed=5).input_ids)
    assert rows.input_ids.shape == (3, 50) and rows.real.all() and not (rows.input_ids == one.opened.pad_id).any()
    assert rows.input_ids.min() >= 0 and rows.input_ids.max() < one.model_config.vocab_size


def test_all_runtimes_are_timed_at_all_sizes_and_weighed(known):
    setting = Setting(batches=(1, 2), lengths=(8, 16), rounds=2, warm_up=1)
    places = [one.place for one in known.values()]
    before = torch.get_num_threads()
    try:
        found = measure_times(places, setting, 1)
        held = measure_memory(places[1], setting)
    finally:
        torch.set_num_threads(before)
    assert [one.size for one in found if one.place == places[0]] == [(1, 1, 8), (1, 2, 8), (1, 1, 16), (1, 2, 16)]
    assert len(found) == 4 * len(places) and all(len(one.seconds) == 2 and min(one.seconds) > 0 for one in found)
    assert held.keys() == {"opened", "peak"} and held["peak"] >= held["opened"]


def test_a_turn_is_a_call_that_is_not_timed_and_one_that_is():
    calls = []

    def work(batch):
        calls.append(batch)
        if len(calls) % 2:  # the first of a turn is slow, as after another model's
            time.sleep(0.5)

    one = turn(work, "rows")
    assert one(0) < 0.4 and one(1) < 0.4 and calls == ["rows"] * 4


def test_a_fresh_process_gives_back_what_is_raised_and_its_end_is_said():
    with pytest.raises(ValueError, match="invalid literal"):
        in_fresh_process(int, "x")
    with pytest.raises(RuntimeError, match=r"(?s)Traceback .*KeyError: 'lost'"):
        in_fresh_process(operator.getitem, {}, "lost")
    with pytest.raises(BenchmarkError, match="ended with status 3, without a word$"):
        in_fresh_process(os._exit, 3)
    with pytest.raises(BenchmarkError, match="ended with status -9, most likely for want of memory"):
        in_fresh_process(signal.raise_signal, signal.SIGKILL)


# ---- scores -----------------------------------------------------------------------------------------------------


def test_scores_are_those_of_evaluation_and_near_on_other_runtimes(folders, known):
    found = score(list(known.values()), Asked(path=str(folders.data)), threads=1)
    assert found.of == f"text_classification, validation: {ROWS} examples" and found.metric == "accuracy"
    for name in ("dense", "sparse", "int8"):
        expected = evaluate_model(str(folders.project / name / "model"), path=str(folders.data)).line["metrics"]
        assert found.found[name, "torch"] == expected
        assert found.found[name, "onnx"]["accuracy"] == pytest.approx(expected["accuracy"], abs=2 / ROWS)
    assert found.leading(("sparse", "torch")) != found.leading(("dense", "torch"))


def test_fewer_rows_are_scored_when_asked(folders, known):
    assert "7 examples" in score([known["dense", "onnx"]], Asked(path=str(folders.data), rows=7), threads=1).of


def test_nothing_is_scored_where_the_files_are_not_known_unless_asked(folders, known):
    models = list(known.values())
    assert "which is no folder here: give --task and --path" in sections(models, Asked())
    found = score(models, Asked(), threads=1)
    assert found.metric is None and found.leading(("dense", "torch")) is None
    with pytest.raises(BenchmarkError, match="which is no folder here"):
        score(models, Asked(rows=3), threads=1)


# ---- refused ----------------------------------------------------------------------------------------------------


def test_models_that_fit_are_not_refused(known):
    check_together(list(known.values()), "dense", 384)


@pytest.mark.parametrize(
    ("names", "dense", "length", "words"),
    [
        (["dense", "sparse"], "sparse", 8, r"sparse/model has 50.0% zeros: it is not dense"),
        (["dense", "int8"], "int8", 8, r"int8/model computes in int8 in fp32; speed-ups are over fp32"),
        (["dense", "sparse"], "gone", 8, r"--dense gone is none of the models \(dense, sparse\)"),
        (["dense"], None, 385, r"rows of up to 384 tokens, and --length says 385"),
    ],
)
def test_what_is_no_baseline_is_refused(known, names, dense, length, words):
    with pytest.raises(BenchmarkError, match=words):
        check_together([known[name, "torch"] for name in names], dense, length)


def test_a_cut_model_is_no_baseline(known):
    with pytest.raises(BenchmarkError, match="was cut to a structure"):
        check_together([replace(known["dense", "torch"], stock=False)], "dense", 8)


def test_one_name_is_one_model(known):
    other = known["sparse", "onnx"]
    renamed = replace(other, place=replace(other.place, name="dense"))
    with pytest.raises(BenchmarkError, match=r"sparse/onnx does not have the weights of .*dense/model"):
        check_together([known["dense", "torch"], renamed], None, 8)


def test_another_task_is_refused(known, tmp_path):
    case = write_case(tmp_path, "numbers")
    other = described(Place("numbers", "torch", str(case.model)))
    with pytest.raises(BenchmarkError, match=r"numbers/model is a model of another task: it does regression, and "):
        check_together([known["dense", "torch"], other], None, 8)
    named = replace(known["sparse", "torch"], task="sst2")
    with pytest.raises(BenchmarkError, match="sparse/model was fine-tuned on sst2, .*dense/model on text_class"):
        check_together([known["dense", "torch"], named], None, 8)


def test_an_export_that_has_changed_is_refused(folders, tmp_path):
    shutil.copytree(folders.project / "sparse" / "onnx", tmp_path / "onnx")
    flip(tmp_path / "onnx" / "model.onnx")
    with pytest.raises(ExportError, match="is not the file that was exported"):
        places_of([str(tmp_path / "onnx")])
