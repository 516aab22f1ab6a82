"""What times say, by times that are known: speed-ups, their refusal, noise, and zeros that bring nothing."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.benchmark.figure import picture
from ofa.benchmark.measure import Setting, Times
from ofa.benchmark.models import FP32, INT8, SIMULATED, Model, Place
from ofa.benchmark.report import Benchmark, as_json, console, markdown
from ofa.benchmark.scoring import Scores
from ofa.benchmark.speed import Measured, missing, noise, remarks
from ofa.runtimes.formats import FORMATS

EVEN = (1.0, 1.01, 0.99, 1.0, 1.0, 1.02, 1.0, 1.0)
"""Seconds of the dense model on a quiet machine."""
positive = st.floats(0.01, 100.0)


def model(name, runtime="torch", *, precision=FP32, weights=1000, zeros=0, rounded=0):
    """What is known of one; `rounded`: weights that int8 alone makes 0."""
    place, labels = Place(name, runtime, f"runs/{name}/{runtime}"), ("a", "b")
    counts = weights, zeros, zeros + rounded
    return Model(place, precision, True, "sst2", "classification", labels, 100, 512, *counts, 4000, 900, {"w": name})


def measured(models, factors, *, dense="dense", rounds=EVEN, sizes=((1, 8, 128),)):
    """Times that are `rounds` divided by a model's factor, or by one for each size."""
    each = [factor if isinstance(factor, tuple) else (factor,) * len(sizes) for factor in factors]
    times = [
        Times(one.place, *size, tuple(second / factor for second in rounds))
        for one, own in zip(models, each, strict=True)
        for size, factor in zip(sizes, own, strict=True)
    ]
    return Measured(models, dense, times)


def whole(found, scores=None):
    """A benchmark of these times."""
    memory = {one.place.key: {"opened": 1, "peak": 2_000_000} for one in found.models}
    return Benchmark(found, scores or Scores("no files"), memory, Setting(batches=(8,)), 0.1)


DENSE = [model("dense"), model("dense", "onnx")]


# ---- speed-ups --------------------------------------------------------------------------------------------------


def test_a_speed_up_is_over_torch_and_over_the_same_runtime():
    found = measured([*DENSE, model("int8", "onnx", precision=INT8)], [1.0, 2.0, 6.0])
    of = {one.place.key: found.speedup(one) for one in found.times}
    assert of["int8", "onnx"].stock["median"] == pytest.approx(6.0)
    assert of["int8", "onnx"].same_runtime["median"] == pytest.approx(3.0)
    assert of["dense", "onnx"].stock["median"] == pytest.approx(2.0)
    assert of["dense", "onnx"].same_runtime == {"median": 1.0, "p10": 1.0, "p90": 1.0}


@given(st.lists(st.tuples(positive, positive, positive), min_size=2, max_size=9))
def test_what_slows_a_whole_round_changes_no_speed_up(rounds):
    own, dense, disturbance = zip(*rounds, strict=True)
    places = [Place("own", "torch", ""), Place("dense", "torch", "")]
    found = []
    for factors in ([1.0] * len(own), disturbance):
        times = [
            Times(place, 1, 1, 1, tuple(a * b for a, b in zip(seconds, factors, strict=True)))
            for place, seconds in zip(places, (own, dense), strict=True)
        ]
        found.append(Measured([], "dense", times).speedup(times[0]).stock)
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize(
    ("models", "dense", "words"),
    [
        ([*DENSE, model("a", "onnx")], None, ["--dense NAME"]),
        ([DENSE[1], model("a", "onnx")], "dense", ["not measured on torch", "dense=FOLDER", "runs/dense/onnx"]),
        (
            [DENSE[0], model("a", "openvino")],
            "dense",
            ["on OpenVINO", "launch/export.py runs/dense/torch --format openvino --precision fp32"],
        ),
    ],
)
def test_without_both_dense_models_no_speed_up_is_printed_and_it_says_how_to_get_one(models, dense, words):
    found = measured(models, [3.0] * len(models), dense=dense)
    assert found.speedup(found.times[-1]) is None
    (said,) = missing(models, dense)
    assert not [word for word in words if word not in said]
    benchmark = whole(found)
    line = as_json(benchmark)["times"][-1]
    assert line["speedup"] is None and said in as_json(benchmark)["notes"]
    rows = [one.split() for one in console(benchmark).splitlines() if one.startswith(models[-1].place.name)]
    assert rows[1][-2:] == ["-", "-"] and said in markdown(benchmark)


def test_with_both_nothing_is_missing():
    assert missing([*DENSE, model("a", "onnx")], "dense") == []


# ---- noise and zeros --------------------------------------------------------------------------------------------


def test_noise_is_how_far_neighbouring_rounds_lie_apart():
    assert noise([2.0] * 5) == 1.0
    assert noise([1.0, 2.0, 1.0]) == noise([2.0, 1.0, 2.0]) == 2.0
    assert noise([1.0] * 20 + [9.0]) == 1.0, "one disturbance in ten does not count"


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_zeros_that_bring_no_speed_are_said_to(runtime):
    """PERF-34"""
    models = [*DENSE, model("sparse", runtime, zeros=800)]
    (said,) = remarks(measured(models, [1.0, 2.0, 1.005 if runtime == "torch" else 2.01]))
    name = {"torch": "torch", "onnx": "ONNX Runtime"}[runtime]
    assert said.startswith(f"sparse on {name}: 80.0% zeros bring no speed: 1.00 (with 95 % confidence 1.00 to 1.00)")
    assert "the runtime computes zeros as any other weight" in said
    assert remarks(measured(models, [1.0, 2.0, 3.0])) == []


def test_only_the_sizes_without_a_gain_are_named():
    """PERF-34"""
    models, sizes = [DENSE[0], model("sparse", zeros=800)], ((1, 1, 128), (2, 8, 64))
    (said,) = remarks(measured(models, [1.0, (2.0, 1.0)], sizes=sizes))
    assert "no speed at batch 8, length 64, 2 threads: " in said and "batch 1," not in said


def test_a_machine_that_is_not_quiet_tells_nothing_of_zeros():
    """PERF-34: the interval of the median decides, not the median."""
    models, up, down = [DENSE[0], model("sparse", zeros=800)], (1.0, 2.0) * 4, (2.0, 1.0) * 4
    times = [Times(one.place, 1, 8, 128, own) for one, own in zip(models, (up, down), strict=True)]
    said = remarks(Measured(models, "dense", times))
    assert "cannot be told: 1.25 (with 95 % confidence 0.50 to 2.00)" in said[0] and "no speed" not in said[0]
    assert "not quiet: neighbouring rounds of one model differ by up to 2.00 times" in said[1]


@pytest.mark.parametrize("rounds", [2, 5])
def test_so_few_rounds_tell_nothing_of_zeros(rounds):
    """PERF-34: with 95 % confidence, as is said of six."""
    models = [DENSE[0], model("sparse", zeros=800)]
    (said,) = remarks(measured(models, [1.0, 1.0], rounds=EVEN[:rounds]))
    assert said == f"sparse on torch: whether 80.0% zeros bring speed cannot be told of {rounds} rounds"
    (said,) = remarks(measured(models, [1.0, 1.0], rounds=EVEN[:6]))
    assert "80.0% zeros bring no speed: 1.00 (with 95 % confidence" in said


@pytest.mark.parametrize("other", [{"precision": INT8}, {"weights": 100}])
def test_what_zeros_bring_is_not_guessed_from_a_model_that_differs_in_more(other):
    models = [*DENSE, model("other", "onnx", zeros=80, **other)]
    (said,) = remarks(measured(models, [1.0, 1.0, 4.0]))
    assert "what its 8" in said and "is not known" in said


@pytest.mark.parametrize("rounded", [0, 14, 130])
def test_what_int8_rounds_to_zero_makes_no_dense_model_sparse(rounded):
    """PERF-34 in 8 bits: 1 to 13 % of a dense model's integers are 0, and it is the twin of the sparse one."""
    dense, sparse = (
        model("dense8", "onnx", precision=INT8, rounded=rounded),
        model("sparse8", "onnx", precision=INT8, zeros=800, rounded=3),
    )
    found = measured([*DENSE, dense, sparse], [1.0, 2.0, 5.0, 5.0])
    (said,) = remarks(found)
    assert said.startswith("sparse8 on ONNX Runtime: 80.0% zeros bring no speed: 1.00 (with 95 % confidence")
    assert "as fast as dense8 of the same sizes in int8" in said
    benchmark = whole(found)
    rows = [one.split() for one in console(benchmark).splitlines() if one.startswith(("dense8", "sparse8"))]
    assert rows[0][5:7] == ["0.0%", f"{rounded / 1000:.1%}"] and rows[1][5:7] == ["80.0%", "80.3%"]
    last = as_json(benchmark)["models"][-1]
    assert (last["sparsity"], last["file_sparsity"], last["zeros"], last["file_zeros"]) == (0.8, 0.803, 800, 803)


def test_int8_on_torch_is_said_to_be_simulated():
    (said,) = remarks(measured([DENSE[0], model("int8", precision=SIMULATED)], [1.0, 0.5]))
    assert said.startswith("int8 on torch: rounds as int8 would and multiplies in fp32")


# ---- the report -------------------------------------------------------------------------------------------------


def test_the_report_says_all_that_a_figure_depends_on():
    models = [*DENSE, model("int8", "onnx", precision=INT8)]
    scores = Scores("sst2, validation: 9 examples", "accuracy", {one.place.key: {"accuracy": 0.75} for one in models})
    benchmark = whole(measured(models, [1.0, 2.0, 6.0]), scores)
    said = json.loads(json.dumps(as_json(benchmark)))
    assert said.keys() >= {"command", "commit", "setting", "scored_on", "zstd_level"}
    assert {"torch", "onnxruntime"} <= said["versions"].keys() and "openvino" not in said["versions"]
    assert said["hardware"].keys() == {"device", "cores", "load_before"}
    assert said["setting"].items() >= {"rounds": 31, "warm_up": 2, "seed": 0, "threads": [1], "device": "cpu"}.items()
    last = said["times"][-1]
    assert last["ms"]["p50"] == pytest.approx(1e3 / 6) and last["rows_per_second"] == pytest.approx(48)
    assert last["rounds_ms"] == pytest.approx([1e3 * second / 6 for second in EVEN], abs=1e-3)
    assert said["models"][-1].items() >= {"name": "int8", "runtime": "onnx", "precision": INT8}.items()
    row = next(one for one in markdown(benchmark).splitlines() if one.startswith("| int8 | ONNX Runtime | int8 | 0.7"))
    assert "| 6.00 (6.00-6.00) | 3.00 (3.00-3.00) |" in row
    assert picture(benchmark).startswith(b"\x89PNG") and picture(benchmark) == picture(benchmark)


def test_a_runtime_of_a_distribution_of_another_name_has_its_version(tmp_path, monkeypatch):
    (tmp_path / "of_another_name.py").write_text('__version__ = "1.2.3"\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], packages=("of_another_name",)))
    assert as_json(whole(measured(DENSE, [1.0, 2.0])))["versions"]["of_another_name"] == "1.2.3"


def test_without_scores_there_is_no_picture_and_the_table_says_so():
    benchmark = whole(measured(DENSE, [1.0, 2.0]))
    assert picture(benchmark) is None
    assert "not scored: no files" in console(benchmark)
