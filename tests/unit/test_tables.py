"""Final tables: which columns a result has."""

import pytest

from ofa.tables import RESULT_COLUMNS, SPARSITY_COLUMNS, result_columns, result_table

PRE_TRAINING = {"rows": [{"name": "student", "validation_loss": 5.4, "masked_accuracy": 0.2}]}
TASK = {
    "metrics": ["f1", "accuracy"],
    "rows": [
        {"name": "floor", "validation_loss": 0.7, "f1": 0.8, "f1_macro": 0.1, "accuracy": 0.66},
        {"name": "fine-tuned model", "validation_loss": 0.4, "f1": 0.9, "accuracy": 0.85, "scope_sparsity": 0.9}
        | {"f1_mismatched": 0.88, "validation_loss_mismatched": 0.45, "accuracy_mismatched": 0.84},
    ],
}


def test_pre_training_has_the_columns_that_it_always_had():
    assert result_columns(PRE_TRAINING) == RESULT_COLUMNS


def test_a_task_has_its_metrics_in_their_order_each_followed_by_that_of_further_splits():
    columns = result_columns(TASK)
    assert [key for _, key, _ in columns[:-3]] == [
        *("validation_loss", "f1", "f1_mismatched", "accuracy", "accuracy_mismatched"),
    ]
    assert tuple(columns[-3:]) == SPARSITY_COLUMNS
    assert [heading for heading, _, _ in columns[1:3]] == ["f1", "f1 mismatched"]


def test_a_metric_that_no_row_has_is_no_column():
    rows = [{"name": "it", "accuracy": 0.5}]
    columns = result_columns({"metrics": ["accuracy", "f1"], "rows": rows})
    assert [key for _, key, _ in columns[:-3]] == ["validation_loss", "accuracy"]


def test_what_a_row_does_not_have_is_a_dash():
    head, _, floor, tuned = result_table(TASK).splitlines()[:4]
    assert "masked accuracy" not in head and "f1 mismatched" in head
    assert floor.split() == ["floor", "0.7000", "0.8000", "-", "0.6600", "-", "-", "-", "-"]
    assert tuned.split()[-8:] == ["0.4000", "0.9000", "0.8800", "0.8500", "0.8400", "-", "90.0000%", "-"]


@pytest.mark.parametrize(("cost", "headings"), [(0.6, ["structure gone"]), (0.7, ["structure gone", "cost gone"])])
def test_what_is_gone_stands_in_one_column_where_weights_are_the_cost(cost, headings):
    """`structure.cost` params: the same number, reckoned twice."""
    rows = [{"name": "floor"}, {"name": "compact model", "structural_sparsity": 0.6, "cost_sparsity": cost + 1e-16}]
    found = [heading for heading, _, _ in result_columns({"rows": rows})]
    assert found[len(RESULT_COLUMNS) :] == headings


def test_columns_of_zeros_that_no_row_has_are_left_out_where_units_were_pruned():
    """A compact model is dense; of a model with all its units it is worth saying."""
    row = {"name": "it", "encoder_sparsity": 0.0, "scope_sparsity": 0.0, "model_sparsity": 0.001}
    for kind in ({}, {"metrics": ["accuracy"]}):
        of_all, of_compact = (
            {heading for heading, _, _ in result_columns({**kind, "rows": [one]})}
            for one in (row, {**row, "structural_sparsity": 0.6})
        )
        assert of_all - of_compact == {"encoder zeros", "scope zeros"} and of_compact - of_all == {"structure gone"}
