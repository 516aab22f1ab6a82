"""Templates that show nothing a sentence would miss: notes, references, complaints, pronunciations, flags, anchors,
boxes in the margin.

All others of which nothing is known are counted by name where they stand inside of a sentence.
"""

from __future__ import annotations

import re
from collections import Counter

from data_prep.counts import TEMPLATE, TEMPLATES

_NAMES = """
    sfn sfnp sfnm sfnref rp r refn efn efn-ua efn-la efn-lr ref_label note_label ref note #tag:ref harvid reflist
    notelist cite citation citation_needed cn fact clarify clarification_needed when when? who who? which which?
    where by_whom by_whom? according_to_whom page_needed better_source better_source_needed failed_verification
    verify_source verification_needed vague dubious disputed_inline relevance_inline qualify_evidence
    unreliable_source? unreliable_source update_inline update_after weasel-inline weasel_inline full
    full_citation_needed citation_not_found non-primary_source_needed primary_source_inline original_research_inline
    synthesis_inline undue_weight_inline self-published_inline self-published_source pov-inline pov_statement
    neologism_inline tone_inline disambiguation_needed dn link_needed request_quotation inflation-fn inflation/fn
    dead_link webarchive wayback anchor anchors clear - respell ipac-en pron-en audio listen flagicon flagdeco
    main main_article see see_also further further_information div_col div_col_end official_website youtube refimprove
    expand_list anker sources_\u00e0_lier belege
"""
"""`_` is a space."""

_SILENT = frozenset(name.replace("_", " ") for name in _NAMES.split())
_NAME = 60
"""Characters of a template's name that are counted under."""

_PATTERN = re.compile(
    r"cite .*|.* icon|use .* (?:dates|english)|r (?:from|to|with|un).*|defaultsort.*|displaytitle.*|(?:info|taxo)box.*"
)


def is_silent(name: str) -> bool:
    """Whether a sentence misses nothing where the template of this name is gone.

    Args:
        name: As it is written.
    """
    name = " ".join(name.replace("_", " ").split()).lower()
    return not name or name in _SILENT or _PATTERN.fullmatch(name) is not None


def count_missed(name: str, counts: Counter[str]) -> None:
    """Count a template that left nothing in a sentence, in all and by its name, unless the sentence misses nothing.

    Args:
        name: As it is written; of a function of the parser with its first value.
        counts: Are added to.
    """
    words = " ".join(name.replace("_", " ").split())
    words = words.partition(":")[0] if words.startswith("#") and not words.startswith("#tag") else words
    words = words[:1].upper() + words[1:_NAME]
    if not is_silent(words):
        counts[TEMPLATES] += 1
        counts[f"{TEMPLATE}{words}"] += 1
