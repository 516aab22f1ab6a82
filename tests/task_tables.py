"""Small tables of examples in every format, and a reader of them."""

import csv
import json

import pyarrow
import pyarrow.parquet

from ofa.config import TaskConfig
from ofa.data.task_sources import read_split
from ofa.data.tasks import task_for

ROWS = [("good film", "pos"), ('a "bad', "neg"), ("so, so", "neg")]


OWN = {"text_column": "text", "label_column": "label"}


def config(name="text_classification", **values):
    columns = {} if name not in ("text_classification", "text_regression", "token_classification") else OWN
    return TaskConfig.model_validate({"name": name, **columns, **values})


def read(split="train", **values):
    value = config(**values)
    return read_split(task_for(value), value, split)


def write(folder, text, name="train.tsv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return str(folder)


def write_rows(path, rows, kind, columns=("text", "label")):
    """Rows of cells in one of the formats."""
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif kind == "tsv":
        path.write_text("".join("\t".join(row) + "\n" for row in [columns, *rows]))
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
