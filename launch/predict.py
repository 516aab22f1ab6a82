"""What a task model says of texts: of a file of them, or of one.

    python launch/predict.py runs/tiny/finetune --text "Return the number of items in the queue."
    python launch/predict.py runs/sst2 --input reviews.csv --text-column review --output predictions.jsonl
    python launch/predict.py runs/sst2/onnx --input reviews.txt --threads 4 > predictions.jsonl
    python launch/predict.py runs/squad --input questions.jsonl --pair-column paragraph --output answers.jsonl
    zcat reviews.jsonl.gz | python launch/predict.py runs/sst2 --input - --format jsonl --text-column review

MODEL is a run folder, a folder that stock transformers loads, one that launch/export.py wrote for a runtime, or a hub
id. An input is .txt (a text a line), .csv, .tsv, .jsonl (also .gz, .zst, .xz), .parquet, or SQuAD's .json; it needs no
labels. Columns that are not given are those of the task that the model was trained on. Each line of the output is the
row's id (column `index`, `idx` or `id`, else its number from 0) and what is said of it, as `ofa.inference` has it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import common

SECONDS_BETWEEN_LINES = 10.0
OF_A_FILE = ("output", "text_column", "pair_column", "id_column", "format", "encoding", "overwrite")
"""Options that mean nothing to one text."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common.launcher_arguments()],
    )
    parser.add_argument("model", metavar="MODEL", help="a run folder, a model folder, an exported one, or a hub id")
    parser.add_argument("--runtime", choices=("torch", "onnx", "openvino"), help="of a run folder with several exports")
    parser.add_argument("--threads", type=common.positive, metavar="N", help="of one forward")
    parser.add_argument("--device", metavar="cpu|cuda", help="of torch (default: the accelerator, if there is one)")
    parser.add_argument("--max-length", type=common.positive, metavar="N", help="tokens of a row (default: as trained)")
    parser.add_argument(
        "--null-threshold", type=float, metavar="X", help="of questions: none is answered where no answer leads by more"
    )
    one = parser.add_argument_group("one text")
    one.add_argument("--text", help="a text, a question, or words parted by spaces")
    one.add_argument("--pair", metavar="TEXT", help="its second text, or its context")
    file = parser.add_argument_group("a file of them")
    file.add_argument("--input", metavar="FILE", help="the file; - for the standard input")
    file.add_argument("--output", type=Path, metavar="FILE", help="a .jsonl (default: the standard output)")
    file.add_argument("--overwrite", action="store_true", help="replace an output that is there")
    file.add_argument("--format", choices=("txt", "csv", "tsv", "jsonl", "json", "parquet"), help="of the input")
    file.add_argument("--text-column", metavar="NAME", help="of the text, the question or the words")
    file.add_argument("--pair-column", metavar="NAME", help="of the second text or the context")
    file.add_argument("--id-column", metavar="NAME", help="of what comes back as id")
    file.add_argument("--encoding", metavar="NAME", help="of the file (default: utf-8)")
    file.add_argument(
        "--batch-size", type=common.positive, default=32, metavar="B", help="rows of one forward (default 32)"
    )
    found = parser.parse_args()
    if (found.text is None) == (found.input is None):
        parser.error("give either --text or --input")
    if found.pair is not None and found.text is None:
        parser.error("--pair goes with --text; of a file, second texts are in --pair-column")
    foreign = [name for name in OF_A_FILE if getattr(found, name)] if found.text is not None else []
    if foreign:
        parser.error(f"--{foreign[0].replace('_', '-')} is for --input, and --text is one text")
    return found


def of_one() -> None:
    """Print what is said of a text."""
    print(encoded(opened()(OPTIONS.text, OPTIONS.pair, null_threshold=OPTIONS.null_threshold)))


def of_file() -> None:
    """Go through a file; how far it is and how fast goes to the standard error."""
    given = Input(
        None if OPTIONS.input == "-" else Path(OPTIONS.input).expanduser(),
        OPTIONS.format,
        OPTIONS.text_column,
        OPTIONS.pair_column,
        OPTIONS.id_column,
        OPTIONS.encoding or "utf-8",
    )
    check_places(given, OPTIONS.output, overwrite=OPTIONS.overwrite)
    predictor = opened()
    began = shown = time.monotonic()
    done = Done(0, 0)
    parts = predict_file(
        predictor,
        given,
        OPTIONS.output,
        batch_size=OPTIONS.batch_size,
        null_threshold=OPTIONS.null_threshold,
    )
    for done in parts:
        now = time.monotonic()
        if sys.stderr.isatty() or now - shown > SECONDS_BETWEEN_LINES:
            shown = now
            say(f"{done.rows:,} rows, {done.rows / (now - began):,.0f} a second", "\r" if sys.stderr.isatty() else "\n")
    seconds = time.monotonic() - began
    speed = f"{done.rows:,} rows in {seconds:.1f} s, {done.rows / seconds:,.0f} rows/s with {predictor.runtime}"
    say(speed if OPTIONS.output is None else f"{speed}: {OPTIONS.output}")
    if done.cut:
        say(cut_in_words(done.cut, predictor.opened.task))


def opened() -> Predictor:
    """The model."""
    return load(
        OPTIONS.model,
        runtime=OPTIONS.runtime,
        threads=OPTIONS.threads,
        device=OPTIONS.device,
        max_length=OPTIONS.max_length,
    )


def say(words: str, end: str = "\n") -> None:
    """A line beside the answers."""
    print(words, end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    OPTIONS = arguments()
    common.only_first_rank()
    from ofa.models.place import check_there

    common.look(lambda: check_there(OPTIONS.model), models=[OPTIONS.model], writes=[OPTIONS.output])
    from ofa.downstream.task_data import cut_in_words  # after the arguments: it takes seconds to import
    from ofa.inference import load
    from ofa.predict_file import Done, Input, check_places, encoded, predict_file
    from ofa.predictor import Predictor

    common.main_wrapper(of_file if OPTIONS.text is None else of_one)
