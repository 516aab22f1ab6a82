"""What a person reads of a metrics line."""

import logging

import pytest

from ofa import progress

LINE = {"step": 3, "loss": 0.5, "lr": 1e-3, "tokens_per_second": 1000.0, "target_sparsity": 0.6, "sparsity": 0.0}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"sparsity": 0.25}, "sparsity 25.0%"),
        ({"expected_sparsity": 0.3}, "structure 30.0% gone, target 60.0%"),
        ({"structural_sparsity": 0.5, "cost_sparsity": 0.61}, "structure 61.0% gone, target 60.0%"),
        ({}, None),
    ],
    ids=["zeros", "gates", "units", "nothing"],
)
def test_the_sparsity_is_that_of_what_the_run_prunes(monkeypatch, more, said):
    """Of single weights, or of units, where a small model has no zeros."""
    lines = []
    monkeypatch.setattr(progress.LOG, "info", lambda text, *values: lines.append(text % values))
    progress.Progress(10, active=True).show(LINE | more)
    assert lines[0].startswith("step 3/10  loss 0.500  lr 1.00e-03  1,000 tokens/s")
    assert lines[0].endswith(said) if said else "sparsity" not in lines[0] and "gone" not in lines[0]


def test_messages_reach_the_terminal_before_there_is_a_log_file_and_both_after(tmp_path, capsys):
    """What a run reads is said while nothing may be written yet."""
    said = logging.getLogger("ofa.anything")
    try:
        progress.start_logging(None, active=True)
        said.info("reading")
        progress.start_logging(tmp_path / "log.txt", active=True)
        said.info("training")
    finally:
        progress.stop_logging()
    assert capsys.readouterr().err.splitlines() == ["reading", "training"]
    assert (tmp_path / "log.txt").read_text().endswith("training\n")
    assert "reading" not in (tmp_path / "log.txt").read_text()
