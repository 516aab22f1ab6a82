"""The report: one page that holds everything, for every kind of run folder."""

import base64
import html.parser
import json
import re

import pytest

from ofa.report import build_report
from ofa.report_data import read_report_data
from ofa.report_structure import stage_marks
from ofa.tables import result_table
from tests.commands import edit
from tests.processes import script

SECTIONS = ["result", "curves", "terms", "sparsity", "churn", "weights", "throughput", "config"]


class Page(html.parser.HTMLParser):
    """Collects ids, what would be loaded, and text."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.loads, self.tags, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            if key in ("src", "href", "srcset", "data", "action"):
                self.loads.append(value)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def finished(synthetic_run):
    """A finished run and its page, made once."""
    run = synthetic_run()
    return run, build_report(run).read_text()


def test_a_finished_pruned_run_has_every_section_with_its_picture(finished):
    page = Page(finished[1])
    assert page.ids == ["header", *SECTIONS]
    assert page.tags.count("img") == 6
    for words in ("tiny/ofa_90", "finished: 1,000 steps", "sparse student", "5.4000", "0123456789abcdef", "2.13.0"):
        assert words in page.text


def test_the_page_loads_nothing_from_outside(finished):
    text = finished[1]
    page = Page(text)
    assert all(uri.startswith("data:image/") for uri in page.loads)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"url\(|@import", text)
    for uri in page.loads:
        picture = base64.b64decode(uri.split(",", 1)[1]).decode()
        assert not re.search(r'(href|src)="(?!#|data:)', picture)


def test_an_unfinished_run_says_how_far_it_is_and_what_is_missing(synthetic_run):
    page = Page(build_report(synthetic_run(until=431, finished=False)).read_text())
    assert page.ids == ["header", *SECTIONS]
    assert "unfinished: step 430 of 1,000" in page.text
    assert "this run at step 250" in page.text
    assert "has not exported its model yet" in page.text


def test_a_run_without_a_single_line_has_a_page(synthetic_run):
    page = Page(build_report(synthetic_run(until=0, finished=False)).read_text())
    assert page.ids == ["header", *SECTIONS]
    assert "no step of 1,000 recorded yet" in page.text


def test_a_dense_run_says_that_it_does_not_prune(synthetic_run):
    page = Page(build_report(synthetic_run("tiny/teacher.json")).read_text())
    assert "This run does not prune." in page.text
    assert "Dense pre-training of bert" in page.text


def pictures(text):
    """Each picture's description and its SVG text."""
    found = re.findall(r'alt="([^"]*)" src="data:image/svg\+xml;base64,([^"]*)"', text)
    return {alt: base64.b64decode(data).decode() for alt, data in found}


@pytest.mark.parametrize("how", ["locked", "pruned", "dense"])
def test_a_fine_tuning_run_shows_its_scores_and_marks_the_exported_step(task_run, how):
    text = build_report(task_run(how=how)).read_text()
    page = Page(text)
    assert page.ids == ["header", *SECTIONS]
    title = "Score, loss and learning rate" if how == "dense" else "Score, loss, learning rate and sparsity"
    assert f"\n{title}\n" in page.text and "0.7300" in page.text
    assert "Exported: step 30 of 40, the first with the best f1" in page.text
    drawn = pictures(text)[f"validation {title.lower()} by step"]
    for words, there in (("f1", True), ("accuracy", True), ("exported: step 30", True), ("masked LM", False)):
        assert (f"<!-- {words}" in drawn) == there, words
    assert ("<!-- target" in drawn) == (how == "pruned") and ("<!-- sparsity" in drawn) == (how != "dense")


def test_only_losses_are_loss_terms_of_a_fine_tuning_run(task_run):
    terms = pictures(build_report(task_run()).read_text())["loss terms by step"]
    assert "<!-- label_loss" in terms and "<!-- kd" in terms
    assert "train_accuracy" not in terms and "skipped" not in terms


def test_a_locked_run_says_whose_zeros_it_has(task_run):
    page = Page(build_report(task_run()).read_text())
    assert "are those of the base, in 12 tensors, kept where they stood" in page.text
    assert "trained without zeros: bert.pooler.dense.weight" in page.text
    assert "masks do not change" in page.text


@pytest.mark.parametrize(("until", "words"), [(20, "this run at step 20"), (0, "no step of 40 recorded yet")])
def test_an_unfinished_fine_tuning_run_has_a_page_without_a_mark(task_run, until, words):
    text = build_report(task_run(until=until, finished=False)).read_text()
    assert words in Page(text).text and not any("exported" in svg for svg in pictures(text).values())


def test_a_run_of_zero_steps_has_a_page(synthetic_run):
    page = Page(build_report(synthetic_run("tiny/one_shot_90.json", until=1)).read_text())
    assert page.ids == ["header", *SECTIONS]


STAGES = {"begin": 5, "ramp_end": 10, "pruned": 20, "total": 40}
STRUCTURE = {"heads": [[0, 1], [1]], "intermediate": [[], [0, 1, 2]], "hidden": None}
ASKED = {"method": "gates", "sparsity": 0.6, "cost": "params"}
MARKS = ("pruning begins", "full target", "small model")


@pytest.fixture
def structural_run(task_run):
    """structural_run(finished) -> a CoFi run with plausible numbers."""

    def make(finished=True, **asked):
        run = task_run(how="dense", finished=finished)
        edit(run / "config.json", lambda record: record["config"].update(structure={**ASKED, **asked}))
        if finished:
            edit(run / "result.json", lambda result: result.update(stages=STAGES))
        of = {"heads": 2, "intermediate": 64}
        (run / "structure.json").write_text(json.dumps({**STRUCTURE, "of": of}))
        return run

    return make


def test_a_structural_run_shows_what_is_left_right_after_its_result_and_when_its_stages_changed(structural_run):
    text = build_report(structural_run()).read_text()
    assert Page(text).ids == ["header", "result", "structure", *SECTIONS[1:]]
    drawn = pictures(text)
    for words in ("structural sparsity and multipliers by step", "validation score, loss and learning rate by step"):
        assert all(f"<!-- {mark} -->" in drawn[words] for mark in MARKS), words


def test_the_structure_picture_shows_which_units_are_left(structural_run):
    """Numbers in words, and heads by place: two of equal numbers look otherwise."""
    name = "heads and intermediate dimensions of each layer"
    run = structural_run()
    drawn = pictures(build_report(run).read_text())[name]
    for words in ("attention heads: 3 of 4 are left", "intermediate dimensions: 3 of 128 are left", "gone", "layer 2"):
        assert f"<!-- {words} -->" in drawn, words
    edit(run / "structure.json", lambda kept: kept.update(heads=[[0, 1], [0]]))
    assert pictures(build_report(run).read_text())[name] != drawn


def test_an_unfinished_structural_run_has_a_page_without_marks(structural_run):
    """How many steps its epochs come to is not known yet."""
    text = build_report(structural_run(finished=False)).read_text()
    assert Page(text).ids == ["header", "result", "structure", *SECTIONS[1:]]
    assert not any(mark in svg for mark in MARKS for svg in pictures(text).values())


def test_marks_of_an_unfinished_run_are_those_that_its_config_says_in_steps():
    asked = {"structure": {"begin_steps": 5, "ramp_steps": 5}, "schedule": {"total_steps": 20}}
    assert stage_marks(asked, None) == stage_marks({"structure": ASKED}, {"stages": STAGES})
    assert list(stage_marks(asked, None)) == list(MARKS) and stage_marks(asked, None)["small model"] == 20
    assert stage_marks({"structure": ASKED}, None) == stage_marks({}, {"rows": []}) == {}


def test_layers_are_counted_from_1_for_people(finished):
    drawn = pictures(finished[1])["sparsity of each tensor"]
    assert "<!-- 2 -->" in drawn and "<!-- 0 -->" not in drawn


def test_a_model_folder_means_the_run_around_it(finished):
    run = finished[0]
    assert read_report_data(run / "model").folder.samefile(run)


def test_a_model_folder_alone_has_a_page_with_its_recipe(exported, tmp_path):
    path = build_report(exported, tmp_path / "page.html")
    page = Page(path.read_text())
    assert path == tmp_path / "page.html"
    assert "of 17,408 weights in 13 tensors are zero" in page.text
    assert "exported model" in page.text


def test_values_of_a_run_are_shown_as_text_not_as_markup(finished):
    assert "--config &lt;tiny&gt; &amp; more" in finished[1]


def test_equal_runs_give_equal_pages(finished):
    run, text = finished
    assert build_report(run).read_text() == text


def test_loss_that_is_not_a_number_leaves_a_gap(synthetic_run):
    run = synthetic_run(until=200, finished=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 210, "lr": 0.1, "loss": "NaN", "masked_lm": "Infinity"}) + "\n")
    assert "step 210" in Page(build_report(run).read_text()).text


def test_a_folder_that_is_neither_is_refused(tmp_path):
    with pytest.raises(ValueError, match="neither a run folder"):
        build_report(tmp_path)


def test_the_console_table_has_a_row_a_model_and_says_where_things_are(finished):
    result = json.loads((finished[0] / "result.json").read_text())
    lines = result_table(result).splitlines()
    assert [line.split("  ")[0] for line in lines[2:6]] == ["dense teacher", "one-shot 90%", "floor", "sparse student"]
    assert "90.0000%" in lines[5] and "5.4000" in lines[5]
    assert "21,034 tokens per second over 1,000 steps" in lines
    assert lines[-1] == "event files: tensorboard"
    assert len({len(line) for line in lines[1:6]}) == 1


def test_the_console_table_shows_a_dash_for_what_was_not_measured():
    table = result_table({"rows": [{"name": "trained model", "validation_loss": 5.5}]})
    assert table.splitlines()[2].split() == ["trained", "model", "5.5000", "-", "-", "-", "-"]


def test_the_script_writes_the_page_and_says_where(synthetic_run, tmp_path):
    run = synthetic_run(until=20, finished=False)
    done = script("report.py", run, cwd=tmp_path)
    assert done.stdout.strip() == str(run / "report.html")
    assert (run / "report.html").stat().st_size > 10_000
