"""The card of a corpus: what went in, what was dropped and why, how long its documents are, under which licences.

Everything is in the manifest and in `rejects.jsonl`; the page needs nothing else, and equal corpora have equal pages.
"""

from __future__ import annotations

from html import escape
from typing import Any

from data_prep.card_pictures import columns, stacked_bars
from data_prep.counts import MEANINGS, kept, most_frequent, read_in_words
from ofa.data.shards import SPLITS
from ofa.page import definitions, document, folded, none, note, picture, rows_table, section

_NAMES = 40
"""Templates that were not rendered in the table."""

_SHOWN = 200
"""Characters of a rejected text in the table."""

_COUNTED = (
    "Documents that were read, and those in each half; their characters. Tokens are those of the shards, so in the "
    "training half as often as the weight says{more}."
)
_SPLITS = {
    "hash": "by a hash of each document, or of the group that must stay together (chapters of a book, a group_field)",
    "prefix": "the first documents",
}
_PAIRED = ", and with random second sentences on top"


def card(manifest: dict[str, Any], rejects: list[dict[str, Any]]) -> str:
    """The page.

    Args:
        manifest: With its fingerprint.
        rejects: A sample of what was dropped.
    """
    statistics = manifest["statistics"]
    name = ", ".join(name or manifest["source"]["kind"] for name in manifest["sources"])
    tokens = sum(statistics.get(f"{split}_tokens", 0) for split in SPLITS)
    read = read_in_words(own["counts"] for own in manifest["sources"].values())
    lead = f"{read}, {kept(statistics):,} kept; {tokens:,} tokens in rows of {manifest['sequence_length']}, "
    lead += str(manifest["mode"])
    body = [
        f'<header id="header"><h1>Corpus {escape(name)}</h1>\n<p class="lead">{lead}</p>\n'
        f"{definitions(_facts(manifest))}</header>",
        section("size", "Size", _size(statistics)),
        section("sources", "Sources", _sources(manifest)),
        section("dropped", "What was dropped or mended", _dropped(manifest)),
        section("lengths", "Length of documents", _lengths(manifest)),
        section("rejects", "A sample of what was dropped", _rejects(rejects)),
        section("config", "Config and versions", _config(manifest)),
    ]
    return document(f"Corpus {name}", body)


def _facts(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    config = manifest["config"]
    return [
        ("fingerprint", str(manifest.get("fingerprint", ""))),
        ("tokenizer", f"{config['tokenizer']['init'] or 'trained on this corpus'}, {manifest['vocab_size']:,} entries"),
        ("tokenizer's fingerprint", str(manifest["tokenizer"]["fingerprint"])),
        ("rows are full to", f"{manifest['statistics']['fill']:.2%}"),
        ("split", f"{config['validation_share']:.1%} for validation, {_SPLITS[config['split']]}"),
    ]


def _size(statistics: dict[str, Any]) -> str:
    what = ("documents", "segments", "rows", "tokens")
    rows = [[one, *(f"{statistics.get(f'{split}_{one}', 0):,}" for split in SPLITS)] for one in what]
    said = f"{statistics.get('characters', 0):,} characters of text, {statistics.get('sentences', 0):,} sentences."
    return rows_table(["", *SPLITS], rows) + note(said)


def _sources(manifest: dict[str, Any]) -> str:
    rows, drawn = [], []
    for name, own in manifest["sources"].items():
        counts, source = own["counts"], manifest["source"]
        source = source["sources"][name] if name else source
        config = manifest["config"]["sources"][name] if name else manifest["config"]["source"]
        kept = [f"{counts.get(f'{split}_documents', 0):,}" for split in SPLITS]
        files = source.get("files", {})
        sizes = [f"{len(files):,}", f"{sum(files.values()) / 1e6:,.1f}"] if files else ["-", "-"]
        read = f"{counts.get('pages', counts.get('documents_read', 0)):,}"
        rows.append(
            [name or source["kind"], source["kind"], source.get("licence", "not said"), f"{config['weight']:g}"]
            + [*sizes, read, *kept]
            + [f"{counts.get('characters', 0):,}", f"{own['tokens']:,}"]
        )
        drawn.append((name or source["kind"], [float(own["tokens"])]))
    head = ["source", "kind", "licence", "weight", "files", "MB", "read", *SPLITS, "characters", "tokens"]
    chart = picture(stacked_bars(drawn, ["tokens"]), "tokens by source") if len(rows) > 1 else ""
    more = _PAIRED if manifest["mode"] == "segment_pair_nsp" else ""
    return rows_table(head, rows, words=("kind", "licence")) + note(_COUNTED.format(more=more)) + chart


def _dropped(manifest: dict[str, Any]) -> str:
    sources = manifest["sources"]
    names = [name or "documents" for name in sources]
    reasons = sorted({reason for own in sources.values() for reason in own["counts"] if reason in MEANINGS})
    table, drawn = [], []
    for reason in reasons:
        counts = [own["counts"].get(reason, 0) for own in sources.values()]
        if any(counts):
            label = reason.replace("_", " ")
            table.append([label, MEANINGS[reason], *(f"{count:,}" for count in counts)])
            drawn += [(label, [float(count) for count in counts])] if reason.startswith(("dropped", "damaged")) else []
    if not table:
        return none("nothing")
    chart = picture(stacked_bars(drawn, names), "documents dropped by reason") if drawn else ""
    return chart + rows_table(["count", "meaning", *names], table, words=["meaning"]) + _templates(sources)


def _templates(sources: dict[str, Any]) -> str:
    """The most frequent that were not rendered."""
    rows = [
        [name or "documents", ", ".join(f"{one} {number:,}" for one, number in most_frequent(found, _NAMES).items())]
        for name, own in sources.items()
        if (found := own.get("templates"))
    ]
    if not rows:
        return ""
    said = note("Templates inside of sentences of which nothing is shown, the most frequent ones:")
    return said + rows_table(["source", "templates"], rows, words=["source", "templates"])


def _lengths(manifest: dict[str, Any]) -> str:
    sources = manifest["sources"]
    powers = sorted({int(power) for own in sources.values() for power in own["lengths"]})
    if not powers:
        return none("no document has a token")
    every = [1 << bit for bit in range(powers[0].bit_length() - 1, powers[-1].bit_length())]
    found = {power: [float(own["lengths"].get(str(power), 0)) for own in sources.values()] for power in every}
    said = "Documents by tokens: a bar counts those no longer than the number under it that are in no bar before."
    return picture(columns(found, [name or "documents" for name in sources]), "length of documents") + note(said)


def _rejects(rejects: list[dict[str, Any]]) -> str:
    if not rejects:
        return none("none were kept")
    rows = [
        [one["reason"].replace("_", " "), one["id"], f"{one['characters']:,}", one["text"][:_SHOWN]] for one in rejects
    ]
    head = ["reason", "document", "characters", "beginning"]
    return rows_table(head, rows, words=("document", "beginning")) + note("The whole sample is in rejects.jsonl.")


def _config(manifest: dict[str, Any]) -> str:
    return folded("config", manifest["config"]) + folded("sources and versions", manifest["source"])
