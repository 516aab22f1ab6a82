"""The validation half: its share, and that no document stands in both, down to the rows of the shards."""

import json
import math
import random
import re

import pytest
from transformers import AutoTokenizer

from ofa.config import DataPrepConfig
from ofa.data.shards import Corpus, read_record
from tests.unit.data_prep.test_pipeline import documents_of

DOCUMENTS = 1200


@pytest.fixture(scope="module")
def prepared(tools, tmp_path_factory):
    """Documents without groups, each with a word of its own in every sentence, prepared with the default share."""
    folder = tmp_path_factory.mktemp("split")
    draw = random.Random(1)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 8))) for _ in range(200)]
    (folder / "text").mkdir()
    with (folder / "text" / "one.jsonl").open("w") as file:
        for number in range(DOCUMENTS):
            sentences = (" ".join([f"q{number}q", *draw.choices(words, k=8)]) for _ in range(draw.randint(1, 4)))
            file.write(json.dumps({"id": str(number), "text": " ".join(f"{one}." for one in sentences)}) + "\n")
    share = DataPrepConfig.model_fields["validation_share"].default
    config = tools.config_for(folder / "text", validation_share=share, source={"group_field": None})
    tools.run(config, folder / "output")
    return share, folder / "output"


def names_in(output, split):
    """Numbers of the documents whose own words stand in the rows of a split, decoded from the shards."""
    tokenizer = AutoTokenizer.from_pretrained(output / "tokenizer")
    found = set()
    for record in Corpus.open(output).split(split).records:
        found |= set(map(int, re.findall(r"q(\d+)q", tokenizer.decode(read_record(record).tokens.tolist()))))
    return found


def test_five_percent_of_the_documents_are_for_validation(prepared):
    """OFA-28: by default, within four standard deviations of as many coins."""
    share, output = prepared
    halves = [one["split"] for one in documents_of(output)]
    assert share == 0.05 and len(halves) == DOCUMENTS
    found = halves.count("validation")
    assert abs(found - share * DOCUMENTS) < 4 * math.sqrt(DOCUMENTS * share * (1 - share))


def test_no_document_stands_in_both_halves(prepared):
    """OFA-28: neither by its record nor by the tokens of any row of the shards."""
    _, output = prepared
    recorded = {split: {int(one["id"]) for one in documents_of(output) if one["split"] == split} for split in HALVES}
    in_rows = {split: names_in(output, split) for split in HALVES}
    assert in_rows == recorded
    assert not in_rows["train"] & in_rows["validation"]
    assert in_rows["train"] | in_rows["validation"] == set(range(DOCUMENTS))


HALVES = ("train", "validation")
