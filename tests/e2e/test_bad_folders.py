"""Run folders, and folders given to the other commands, that cannot be used: one clear line, no trace."""

import json
import shutil
import sys

import pytest

from tests.commands import command, flip, overrides, refused, tree
from tests.corpora import write_corpus
from tests.processes import CHECKOUT, finished, script

# ---- run folders ------------------------------------------------------------------------------------------------


@pytest.fixture
def unfinished(project):
    """A run folder whose run has not written its result: it would be continued."""
    folder = project / "unfinished"
    shutil.copytree(project / "runs" / "teacher", folder)
    (folder / "result.json").unlink()
    yield folder
    shutil.rmtree(folder)


def checkpoints(run):
    """Its checkpoints, the newest first."""
    return sorted((run / "checkpoints").glob("step-*"), reverse=True)


DAMAGE = {
    "a missing file": (
        lambda path: (path / "mp_rank_00_model_states.pt").unlink(),
        ["lacks mp_rank_00_model_states.pt"],
    ),
    "a flipped bit": (
        lambda path: flip(path / "mp_rank_00_model_states.pt"),
        ["mp_rank_00_model_states.pt is damaged", "crc32"],
    ),
    "no index": (lambda path: (path / "checkpoint.json").unlink(), ["is no checkpoint", "checkpoint.json"]),
    "a damaged index": (lambda path: (path / "checkpoint.json").write_text("{}"), ["checkpoint.json is damaged"]),
    "a broken index": (lambda path: (path / "checkpoint.json").write_text("{"), ["checkpoint.json is damaged"]),
    "a lost folder": (shutil.rmtree, ["step-000000", "is no checkpoint"]),
}


@pytest.mark.parametrize("kind", [*list(DAMAGE)[1:2], *(pytest.param(k, marks=pytest.mark.slow) for k in DAMAGE)])
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(project, unfinished, kind):
    """OFA-31: the checksum tells, a warning says so, and the run ends with the same bytes."""
    damage, words = DAMAGE[kind]
    damage(checkpoints(unfinished)[0])
    answer = command("pretrain.py", "--config", "teacher.json", "--run-dir", "unfinished", cwd=project)
    assert answer.status == 0, answer.err
    warning = next(line for line in answer.err.splitlines() if "Going back to the checkpoint before" in line)
    assert "step-00000024" in warning and all(word in warning for word in words) and "take an older" not in warning
    assert "continuing from unfinished/checkpoints/step-00000020" in answer.err
    assert tree(unfinished / "model") == tree(project / "runs" / "teacher" / "model")


@pytest.mark.parametrize("kind", list(DAMAGE)[:-1])
def test_a_run_whose_checkpoints_are_all_damaged_stays_as_it_is(project, unfinished, kind):
    damage, words = DAMAGE[kind]
    for path in checkpoints(unfinished):
        damage(path)
    words = [*words, "unfinished/checkpoints holds no intact checkpoint, 2 looked at", "another --run-dir"]
    refused(project, "--config", "teacher.json", "--run-dir", "unfinished", words=words)


def test_zero_0_is_not_converted_to(project, unfinished):
    words = ["was written at ZeRO 1 and this run has ZeRO 0", "Set engine.zero_stage to 1"]
    values = overrides("engine.zero_stage=0")
    refused(project, "--config", "teacher.json", "--run-dir", "unfinished", *values, words=words)


FOLDERS = {
    "a damaged record": (lambda run: (run / "config.json").write_text("{"), ["config.json is damaged"]),
    "another config.json": (lambda run: (run / "config.json").write_text("{}"), ["is no run's record", "lacks config"]),
    "a damaged metrics line": (
        lambda run: (run / "metrics.jsonl").write_text('{"step": 0}\nbroken\n{"step": 2}\n'),
        ["metrics.jsonl, line 2: not a metrics line"],
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_run_folder_that_cannot_be_continued_stays_as_it_is(project, unfinished, kind):
    damage, words = FOLDERS[kind]
    damage(unfinished)
    refused(project, "--config", "teacher.json", "--run-dir", "unfinished", words=words)


def test_a_run_folder_of_another_config_or_other_data_stays_as_it_is(project, unfinished, damaged):
    arguments = ("--config", "teacher.json", "--run-dir", "unfinished")
    words = ["was started with another config", "optimizer.lr (0.001 -> 0.002)", "choose another --run-dir"]
    refused(project, *arguments, *overrides("optimizer.lr=0.002"), words=words)
    shutil.rmtree(damaged)
    write_corpus(damaged, rows=121)
    words = ["was started on other data", "Restore the data"]
    refused(project, *arguments, *overrides("data.path=damaged"), words=words)


def test_a_run_folder_that_holds_another_model_is_refused_before_training(project):
    """And not at its export, days later."""
    place = project / "occupied" / "model"
    place.mkdir(parents=True)
    (place / "thesis.txt").write_text("mine")
    words = ["occupied/model exists and is no exported model", "choose another --run-dir"]
    refused(project, "--config", "teacher.json", "--run-dir", "occupied", words=words)


RUN_FOLDERS = {
    "never continue": (["--run-dir", "runs/teacher", "--resume", "never"], ["--resume is never"]),
    "no such checkpoint": (["--run-dir", "new/run", "--resume", "nowhere"], ["--resume nowhere", "no such folder"]),
    "no checkpoint": (["--run-dir", "new/run", "--resume", "data"], ["data is no checkpoint"]),
    "no folder of folders": (["--run-dir", "new/run", "--resume", "/"], ["/ is no checkpoint"]),
    "all checkpoints": (["--run-dir", "new/run", "--resume", "runs/teacher/checkpoints"], ["is no checkpoint"]),
    "a checkpoint of another config": (
        ["--run-dir", "new/run", "--resume", "runs/teacher", *overrides("optimizer.lr=0.002")],
        ["runs/teacher was started with another config: optimizer.lr (0.001 -> 0.002)", "begin anew, without --resume"],
    ),
    "a file": (["--run-dir", "teacher.json"], ["teacher.json cannot be written", "choose another --run-dir"]),
    "inside a file": (["--run-dir", "teacher.json/x"], ["teacher.json/x cannot be written"]),
}


@pytest.mark.parametrize("kind", RUN_FOLDERS)
def test_a_run_folder_that_cannot_be_used_is_refused(project, kind):
    arguments, words = RUN_FOLDERS[kind]
    refused(project, "--config", "teacher.json", *arguments, words=words)


def test_what_a_user_keeps_in_a_folder_survives_a_refused_run_there(project):
    (project / "mine").mkdir()
    (project / "mine" / "notes.txt").write_text("mine")
    values = overrides("model.architecture.vocab_size=50")
    refused(project, "--config", "teacher.json", "--run-dir", "mine", *values, words=["50 entries"])


# ---- the other commands -----------------------------------------------------------------------------------------

OTHERS = {
    "verify nothing": ("verify.py", ["nowhere"], ["nowhere: no such folder"]),
    "verify a config folder": ("verify.py", ["runs"], ["runs is neither a run folder", "nor a model folder"]),
    "verify the sparsity of data": ("verify.py", ["data", "--expect-sparsity", "0.9"], ["has no sparsity"]),
    "report nothing": ("report.py", ["nowhere"], ["nowhere: no such folder"]),
    "evaluate nothing": ("evaluate.py", ["./nowhere", "--data", "data"], ["nowhere: no such folder"]),
    "evaluate on nothing": ("evaluate.py", ["runs/teacher", "--data", "nowhere"], ["nowhere: no such folder"]),
    "evaluate on too many rows": ("evaluate.py", ["runs/teacher", "--data", "data", "--rows", "999"], ["has 23"]),
    "export no run": ("export.py", ["data"], ["data/config.json is missing", "no run folder"]),
    "export no checkpoint": ("export.py", ["runs/teacher", "--checkpoint", "data"], ["data is no checkpoint"]),
    "export over a file": ("export.py", ["runs/teacher", "--output", "sparse.json"], ["sparse.json exists"]),
    "export over other things": ("export.py", ["runs/teacher", "--output", "data"], ["data exists", "no exported"]),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_the_other_commands_refuse_what_they_cannot_use(project, kind):
    name, arguments, words = OTHERS[kind]
    refused(project, *arguments, words=words, script_name=name)


@pytest.mark.parametrize("arguments", [["--rows", "0"], ["--micro-size", "-1"]])
def test_counts_below_one_are_usage_errors(project, arguments):
    answer = command("evaluate.py", "runs/teacher", "--data", "data", *arguments, cwd=project)
    assert answer.status == 2 and "expected a whole number of at least 1" in answer.err


def test_verify_shows_every_damaged_file_of_prepared_data_and_exits_with_1(project, damaged):
    whole = command("verify.py", "damaged", cwd=project)
    assert whole.status == 0 and "ok: damaged is what its manifest says it is" in whole.out
    assert whole.out.count(" ok\n") == 7  # six shards and the tokenizer
    flip(damaged / "train" / "shard-00001.tar")
    (damaged / "validation" / "shard-00002.tar").unlink()
    answer = command("verify.py", "damaged", cwd=project)
    assert (answer.status, answer.err) == (1, "")
    assert "damaged/train/shard-00001.tar: sha256 differs" in answer.out
    assert "damaged/validation/shard-00002.tar: missing" in answer.out
    assert "2 damaged files" in answer.out and answer.out.count(" ok\n") == 5


def test_verify_names_preparation_that_is_not_finished(project):
    (project / "half" / ".work").mkdir(parents=True)
    refused(project, "half", words=["half: no manifest.json", "not finished"], script_name="verify.py")


# ---- real processes ---------------------------------------------------------------------------------------------


def test_a_flipped_bit_stops_a_real_process_in_one_line(project, damaged):
    flip(damaged / "train" / "shard-00000.tar")
    before = tree(project)
    arguments = ("--config", "teacher.json", "--run-dir", "new/run", *overrides("data.path=damaged"))
    done = script("pretrain.py", *arguments, cwd=project, check=False)
    assert done.returncode == 1 and [line[:7] for line in done.stderr.splitlines()] == ["startin", "error: "]
    assert "shard-00000.tar: the record at byte" in done.stderr
    assert tree(project) == before


PREPARATION = {
    "no such file": ({"paths": ["nowhere"]}, {}, ["source.paths: there is no nowhere (working directory"]),
    "an empty corpus": ({"paths": ["text/empty.txt"]}, {}, ["no document is left after", "dropped empty 1"]),
    "no UTF-8": ({"paths": ["text/latin.txt"]}, {}, ["latin.txt, line 1, byte", "not UTF-8", "convert it"]),
    "a broken line": ({"paths": ["text/broken.jsonl"]}, {}, ["broken.jsonl, line 2: not JSON", "repair the line"]),
    "a missing field": ({"paths": ["text/other.jsonl"]}, {}, ["no text in field 'text'", "set source.text_field"]),
    "a truncated archive": ({"paths": ["text/cut.txt.gz"]}, {}, ["cut.txt.gz: truncated or damaged"]),
    "no tokenizer": (
        {"paths": ["text/empty.txt"]},
        {"tokenizer": {"init": "./nowhere/at/all"}},
        ["tokenizer ./nowhere/at/all is no folder", "give a folder with a tokenizer, or a hub id"],
    ),
    "an unknown key": ({"path": ["text"]}, {}, ["unknown key source.path", "did you mean paths?"]),
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder with texts that cannot be used."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "text").mkdir()
    contents = {
        "empty.txt": b"",
        "latin.txt": b"caf\xe9",
        "broken.jsonl": b'{"text": "one"}\n{"text":\n',
        "other.jsonl": b'{"body": "one"}\n',
        "cut.txt.gz": b"\x1f\x8b\x08\x00",
    }
    for name, content in contents.items():
        (folder / "text" / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("kind", PREPARATION)
def test_data_preparation_refuses_what_it_cannot_use(texts, kind):
    source, more, words = PREPARATION[kind]
    (texts / "prepare.json").write_text(json.dumps({"source": {"kind": "text", **source}, **more}))
    before = tree(texts)
    line = [sys.executable, "-m", "data_prep", "--config", "prepare.json", "--output", "out/data", "--workers", "1"]
    done = finished(line, cwd=texts, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and all(word in errors[0] for word in words), done.stderr
    assert tree(texts) == before
    assert str(CHECKOUT) not in errors[0]
