"""Text and parquet files as sources."""

import gzip
import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from data_prep import sources
from data_prep.documents import DataPrepError
from data_prep.tally import Tally
from ofa.config import SourceConfig

COMPRESS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    # two frames, as concatenated files have
    ".zst": lambda data: zstandard.compress(data[:7]) + zstandard.compress(data[7:]),
}
RECORDS = [{"id": number, "text": f"Text {number} \u00e9", "title": "T", "list": [1]} for number in range(50)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


def read_all(shard_characters: int = 1000, **source):
    """All documents of a source, in the order of its units."""
    config = SourceConfig(**source)
    found = sources.units(config, shard_characters)
    return [document for unit in found for document in sources.read(config, unit, Tally())]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_json_lines_are_documents(tmp_path, suffix):
    (tmp_path / f"a.jsonl{suffix}").write_bytes(COMPRESS[suffix](LINES))
    documents = read_all(kind="text", paths=[str(tmp_path)])
    assert [(one.id, one.text, one.group) for one in documents] == [(str(r["id"]), r["text"], None) for r in RECORDS]
    assert documents[0].meta == {"title": "T"}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_text_file_is_one_document(tmp_path, suffix):
    (tmp_path / f"a.txt{suffix}").write_bytes(COMPRESS[suffix](b"\xef\xbb\xbfOne.\n\nTwo lines.\n"))
    (document,) = read_all(kind="text", paths=[str(tmp_path / "*.txt*")])
    assert (document.id, document.text) == (f"a.txt{suffix}", "One.\n\nTwo lines.\n")


def test_parquet_rows_are_documents(tmp_path):
    columns = {"body": [f"t{n}" for n in range(3000)], "wing": [n % 7 for n in range(3000)]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet", row_group_size=1000)
    documents = read_all(kind="parquet", paths=[str(tmp_path)], text_field="body", group_field="wing", id_field=None)
    assert [one.text for one in documents] == columns["body"]
    assert (documents[8].id, documents[8].group) == ("a.parquet:8", "1")


def test_files_come_in_a_fixed_order_once_and_small_ones_share_a_unit(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(name * 400)
    config = SourceConfig(kind="text", paths=[str(tmp_path / "c.txt"), str(tmp_path)])
    units = sources.units(config, 700)
    assert [[path[-5] for path in unit.inputs] for unit in units] == [["a", "b"], ["c"]]


def test_names_do_not_depend_on_where_the_corpus_lies(tmp_path):
    for root in ("x", "y"):
        (tmp_path / root / "sub").mkdir(parents=True)
        (tmp_path / root / "sub" / "a.txt").write_text("A")
        (tmp_path / root / "b.txt").write_text("B")
    first, second = (read_all(kind="text", paths=[str(tmp_path / root)]) for root in ("x", "y"))
    assert first == second and {one.id for one in first} == {"b.txt", "sub/a.txt"}


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, suffix):
    data = (zstandard.compress if suffix == ".zst" else COMPRESS[suffix])(LINES)
    (tmp_path / f"cut.jsonl{suffix}").write_bytes(data[:-20])
    with pytest.raises(DataPrepError, match=f"cut.jsonl{suffix}: truncated or damaged"):
        read_all(kind="text", paths=[str(tmp_path)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"text": "a"}\n\n{"text": \n', r"a.jsonl, line 3: not JSON"),
        (b'{"text": "a"}\n{"txt": "b", "n": 1}\n', r"line 2: no text in field 'text', found only txt, n; set source"),
        (b'{"text": 5}\n', r"line 1: no text in field 'text', found int"),
        (b'["text"]\n', r"line 1: expected a JSON object, found list"),
        (b'{"text": "\xff"}\n', r"a.jsonl, line 1, byte 10: not UTF-8"),
        (b'{"text": "a"}\n' * 99_999 + b'{"text": "\xff"}\n', r"line 100000, byte 1399996: not UTF-8.*on_damage=skip"),
    ],
)
def test_a_bad_line_is_an_error_with_its_number(tmp_path, data, message):
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(DataPrepError, match=message):
        read_all(kind="text", paths=[str(tmp_path)])


def test_damage_is_left_out_and_counted_on_request(tmp_path):
    """A line that is no JSON or has no text, bytes that are no UTF-8, a file that is cut off."""
    lines = b'{"text": "a"}\n{"text": \n{"txt": "b"}\n[1]\n{"text": "c\xff"}\n'
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(LINES)[:-20])
    source, counts = SourceConfig(kind="text", paths=[str(tmp_path)], on_damage="skip"), Tally(sample=9)
    found = [one for unit in sources.units(source, 10**6) for one in sources.read(source, unit, counts)]
    assert [one.text for one in found[:2]] == ["a", "c\ufffd"]
    assert counts == {"files": 2, "damaged_lines": 3, "damaged_files": 1}
    assert {one["id"].partition(": ")[0][-6:] for one in counts.rejects if one["reason"] == "damaged_lines"} == {
        "line 2",
        "line 3",
        "line 4",
    }


def test_a_path_that_matches_nothing_is_an_error(tmp_path):
    with pytest.raises(DataPrepError, match=r"there is no \S*x\*.txt \(working .*\); kind text reads files ending in"):
        read_all(kind="text", paths=[str(tmp_path / "x*.txt")])
    (tmp_path / "a.doc").write_text("")
    with pytest.raises(DataPrepError, match="the folder .* has no such file; kind text reads files ending in"):
        read_all(kind="text", paths=[str(tmp_path)])
    with pytest.raises(DataPrepError, match=r"a.doc does not serve; kind text"):
        read_all(kind="text", paths=[str(tmp_path / "a.doc")])
    (tmp_path / "b.doc").write_text("")
    with pytest.raises(DataPrepError, match=r"none of the 2 files and folders that \S*\*.doc matches serves; "):
        read_all(kind="text", paths=[str(tmp_path / "*.doc")])


def test_a_file_that_is_no_parquet_is_an_error(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataPrepError, match="a.parquet: not a readable parquet file"):
        read_all(kind="parquet", paths=[str(tmp_path)])


def test_a_page_of_a_parquet_file_that_is_damaged_is_an_error_of_that_file(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [{"id": str(number), "text": f"words of row {number} " * 20} for number in range(1000)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, use_dictionary=False)
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + b"\xff" * 200 + whole[middle + 200 :])
    with pytest.raises(DataPrepError, match=r"a.parquet: not a readable parquet file, after \d+ rows \("):
        read_all(kind="parquet", paths=[str(tmp_path)])
