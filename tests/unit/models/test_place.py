"""Folders that models are taken from, looked at before anything heavy is imported."""

import pytest

from ofa.models.place import ModelError, check_place

RECORD = '{"config": {"task": {}}, "command": "finetune.py"}'


def run_folder(folder, *, finished):
    """A folder as a run leaves it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(RECORD)
    if finished:
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text('{"model_type": "bert"}')
    return folder


def test_a_run_folder_in_place_of_its_model_is_asked_about(tmp_path):
    folder = run_folder(tmp_path / "x", finished=True)
    with pytest.raises(ModelError, match=f"{folder} is the folder of a run, .*did you mean {folder / 'model'}\\?"):
        check_place(str(folder))
    check_place(str(folder / "model"))


def test_a_run_without_a_model_is_to_be_finished_first(tmp_path):
    folder = run_folder(tmp_path / "x", finished=False)
    with pytest.raises(ModelError, match="has not made its model yet: start its command again"):
        check_place(str(folder))


def test_a_folder_around_a_model_is_asked_about(tmp_path):
    folder = run_folder(tmp_path / "x", finished=True)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=f"no config.json there.*did you mean {folder / 'model'}\\?"):
        check_place(str(folder))


def test_a_folder_that_is_not_there_comes_with_its_key_and_what_makes_one():
    with pytest.raises(ModelError) as refused:
        check_place("runs/my_teacher/model", "teacher.init", maker="launch/finetune.py")
    start, remedy = str(refused.value).split("; ", 1)
    assert start == "teacher.init: model folder runs/my_teacher/model not found (no config.json there)"
    assert remedy.startswith("make one with: python launch/finetune.py --config <config> --run-dir runs/my_teacher; or")
    with pytest.raises(ModelError, match="make it with: python launch/finetune.py --config tiny/finetune_teacher.json"):
        check_place("runs/tiny/finetune_teacher/model", "teacher.init", maker="launch/pretrain.py")


@pytest.mark.parametrize("content", ['{"architectures": []}', '{"model_type": "bert", "config": 1}', "{", "[]"])
def test_other_config_files_are_left_to_who_reads_them(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    check_place(str(tmp_path))
