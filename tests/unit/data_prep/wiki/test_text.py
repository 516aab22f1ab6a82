"""Wikitext to plain text."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.counts import TEMPLATE, TEMPLATES, parted
from data_prep.wiki.text import TextOptions, to_text

pytest.importorskip("mwparserfromhell")


def text_of(wikitext, **options):
    """Plain text; a paragraph a line."""
    return to_text(wikitext, TextOptions(**options), Counter()).replace("\n\n", "\n")


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("'''A''' is ''b''.", "A is b."),
        ("a [[b]]s, [[c|d]]ing and [[E (f)|]] [[:Category:G|g]]", "a bs, ding and E g"),
        ("a [[Category:B]][[de:C]][[File:d.png|thumb|e [[f]] g]] h", "a h"),
        ("a [http://b c d] [http://e] http://f.g h", "a c d http://f.g h"),
        ("a &ndash; b&nbsp;c &amp; d &#8364; AT&T", "a – b\u00a0c & d € AT&T"),
        ("formula {{Carbon}}<sub>''n''</sub>{{hydrogen}}<sub>2</sub>, {{Sodium|x}}x\n{{Iron}}", "formula CnH2, x"),
        ("a {{Template:Lang|fr|b}} {{e|6}} and{{\\}}or", "a b \u00d710^6 and / or"),
        ("a __KEIN_INHALTSVERZEICHNIS__ __AUCUNSOMMAIRE__ b__HIDDENCAT__ c", "a b c"),
        ("__STDC_VERSION__ <code>__BYTE_ORDER__</code> __notoc__", "__STDC_VERSION__ __BYTE_ORDER__ __notoc__"),
        ("<nowiki>__STDC_HOSTED__</nowiki> __END__ __FILE__", "__STDC_HOSTED__ __END__ __FILE__"),
        ("of {{hlist|a|[[b]]|class=x}} and {{hlist\n| c\n| d\n}}.", "of a, b and c, d."),
        ("H<sub>2</sub>O <small>s</small> <span style='x'>t</span> <u>v</u>", "H2O s t v"),
        ("one\ntwo\n\nthree", "one two\nthree"),
        ("a<br>b", "a b"),
        ("Fact.<ref>{{cite}}</ref> Next", "Fact. Next"),
        ("Fact.<ref>x</ref>Next", "Fact. Next"),
        ("word<ref>x</ref>, next", "word, next"),
        ("A ({{IPAc-en|x}}; born 1900) b", "A (born 1900) b"),
        ("A ({{IPAc-en|x}}) b", "A b"),
        ("A (b, {{unknown}}) c", "A (b) c"),
        ("A (b, {{unknown}}, c) d", "A (b, c) d"),
        ("{{lang|fr|bon}} {{nowrap|a [[b]]}} {{convert|5|to|10|sqmi|km2}}", "bon a b 5 to 10 square miles"),
        ("in {{as of|2010|3|lc=y}} {{frac|1|2}} it{{'}}s {{chem|CH|3}}", "in as of March 2010 1/2 it's CH3"),
        (
            "{{lang-de|Wort}} {{transl|ar|ALA|x}} {{val|6.2|e=18|u=J}} {{USS|Hornet|CV-12}}",
            "Wort x 6.2×10^18 J USS Hornet",
        ),
        ("said: {{quote|<poem>Who\nare you?</poem>\n\nI.|author}} so", "said:\nWho are you?\nI. so"),
        ("{{quote\n| Spoken.\n| author = A\n}}\n{{quote|text=So [[b]].|sign=C}}", "Spoken. So b."),
        (
            "{{convert|2.3|Moilbbl/d}} {{convert|20|C|F}} {{convert|10|e6sqmi|km2}}",
            "2.3 million barrels per day 20\u00b0C 10 million square miles",
        ),
        (
            "{{convert|40|acre|adj=on}} {{convert|2.5|nmi|adj=on}} {{cvt|3|ft|adj=mid|-deep}} {{convert|1|USgal|L}}",
            "40-acre 2.5-nautical-mile 3 ft-deep 1 US gallon",
        ),
        (
            "{{convert|6|ft|4|in|m}} {{convert|1200|-|10000.5|mi}} {{convert|1|Moilbbl/d}} {{cvt|1969|m|comma=off}}",
            "6 ft 4 in 1,200–10,000.5 miles 1 million barrels per day 1969 m",
        ),
        ("{{ucfirst:united Nations}} {{uc:nato}} {{LC:Big Ben}}", "United Nations NATO big ben"),
        ("{{lcfirst:The BBC}} {{Template:uc:nato}}", "the BBC NATO"),
        ("{{height|ft=5|in=11}} {{RailGauge|4ft8.5in}} {{formatnum:3003}}", "5 ft 11 in 4 ft 8.5 in 3,003"),
        ("fell at {{Coord|30|12|N|74|7|W|name=x}}. Or {{coord|-1.5|30}}", "fell at 30°12′N 74°7′W. Or 1.5°S 30°E"),
        ("a {{coord|1|N|2|E|display=title}} b {{coord|1|N|2|E|display=inline,title}}", "a b 1°N 2°E"),
        ("letters {{vr|ai}} and {{vr|au}}; HA {{eqm}} B", "letters ⟨ai⟩ and ⟨au⟩; HA ⇌ B"),
        ("the phoneme {{IPA-de|tʃ|}} and Bo ({{IPA-fr|bo|lang}}) x", "the phoneme [tʃ] and Bo x"),
        ("{{Harvtxt|Boole|Jeffrey|1974}} say {{harvtxt|A|1}}", "Boole & Jeffrey (1974) say A (1)"),
        (
            "{{ship|HMS|Victory||2}} {{sclass|Nimitz|carrier|0}} {{bibleverse|1|Kings|8:1|KJV}}",
            "HMS Victory Nimitz-class carrier 1 Kings 8:1",
        ),
        (
            "{{color|red|a}} {{resize|70%|b}} {{h:title|seen on top|c}}{{pad|1em}}{{sic|hi|de=y}} {{ordinal|12}}",
            "a b c hi 12th",
        ),
        ("was $5 (${{Inflation|US|5|1929}} in {{CURRENTYEAR}} dollars). So", "was $5. So"),
        ("{{legend|#FAEB86|winner}}\n\nText", "Text"),
        ("the isotope {{nuclide2|einsteinium|254|link=y}} *", "the isotope einsteinium-254 *"),
        ("<math>(P \\to Q)\\leftrightarrow (\\neg Q \\to \\neg P)</math>", "(P → Q) ↔ (¬Q → ¬P)"),
        ("<math>~n~</math>photon, <math>n\\,</math>th, <math>~x~</math>.", "n photon, nth, x."),
        ("*{{Citation|a}}. First of a series of papers on this topic.", "First of a series of papers on this topic."),
        ("{{cite|a}}, or b", "or b"),
        ("<math>x</math> and <math>\\alpha_{1}</math> and <math>\\int_0^1 \\frac{a}{b}</math>", "x and α1 and formula"),
        ("a <nowiki>''b'' [[c]]</nowiki> d", "a ''b'' [[c]] d".replace("''", "").replace("[[", "").replace("]]", "")),
        ("a <code>f(x)</code> b <syntaxhighlight>int i;</syntaxhighlight>", "a f(x) b"),
        ("__NOTOC__a\n----\nb", "a\nb"),
        ("{| class=x\n| cell\n|}\nafter", "after"),
        ("before\n| lost = cell\n|-\n! a !! b\n|}\nafter", "before\nafter"),
        (":''For other uses, see [[X]].''\nText.", "Text."),
        ("He said:\n:A quotation.\nThen", "He said:\nA quotation.\nThen"),
        ("<blockquote>\nQuoted.\n\nMore.\n</blockquote>", "Quoted.\nMore."),
        ("<div>a</div><div>b</div>", "a\nb"),
        ("a '''b", "a b"),
        ("a <b>c", "a c"),
        ("a <b and c", "a <b and c"),
        ("{{Infobox\n| a = b\n}}\n'''A'''", "A"),
        ("{{unclosed\nText goes on.", "Text goes on."),
        ("Foo<td>a</td><td>b</td>bar", "Foo a b bar"),
        ("A fact.<ref name=x>Smith 2001.", "A fact. Smith 2001."),
        ("...\n\n—", ""),
    ],
)
def test_readers_see(wikitext, expected):
    found = text_of(wikitext)
    assert re.sub(r" +", " ", found) == re.sub(r"[ \u00a0]+", " ", expected) or found == expected


@pytest.mark.parametrize(
    ("language", "wikitext", "expected"),
    [
        (
            "fr",
            "au {{s|XIX}}, {{s|I|er}}, {{-s|V|e}}, {{XXe si\u00e8cle}}",
            "au XIXe si\u00e8cle, Ier si\u00e8cle, Ve si\u00e8cle av. J.-C., XXe si\u00e8cle",
        ),
        ("fr", "le {{1er}} mai, XIX{{e}}, {{Ier si\u00e8cle}}, {{XXIe}}", "le 1er mai, XIXe, Ier si\u00e8cle, XXIe"),
        (
            "fr",
            "{{date|12|mai|1990|en football}} {{date|1|janvier|1990}} {{Date|mai|1990}}",
            "12 mai 1990 1er janvier 1990 mai 1990",
        ),
        (
            "fr",
            "{{date|12 mai 1990|en football}} {{date||5|}} {{date|1|2|950}} {{date|||1990}}",
            "12 mai 1990 1er f\u00e9vrier 950 1990",
        ),
        (
            "fr",
            "{{unit\u00e9|100000|km|2}} {{unit\u00e9|300|km||h|-1}} {{unit\u00e9|1234567,5}}",
            "100 000 km\u00b2 300 km\u22c5h\u207b\u00b9 1 234 567,5",
        ),
        (
            "fr",
            "{{unit\u00e9|3|km}} {{unit\u00e9|1 500|m||s|-2}} {{Mod\u00e8le:Nombre|5|fois}}",
            "3 km 1 500 m\u22c5s\u207b\u00b2 5 fois",
        ),
        (
            "fr",
            "{{heure|12|30}} {{heure|8}} {{langue|en|road}} {{n\u00b0|3}} {{av JC}}",
            "12 h 30 8 h road no 3 av. J.-C.",
        ),
        (
            "fr",
            "{{Mme|de Sta\u00ebl}} et {{Mme}}, {{M.|X}} dit {{\"|x}}",
            "Mme de Sta\u00ebl et Mme, M. X dit \u00ab x \u00bb",
        ),
        (
            "fr",
            "il {{refnec|est n\u00e9 l\u00e0}}{{quand}}, {{citation|y}}",
            "il est n\u00e9 l\u00e0, \u00ab y \u00bb",
        ),
        (
            "de",
            "({{enS|house}}), {{H\u00f6he|12|DE-NHN}} {{H\u00f6he|3}} {{Vorlage:Zitat|a|b}}",
            "(englisch house), 12 m \u00fc. NHN 3 m a",
        ),
    ],
)
def test_templates_of_a_language_are_known_in_its_dumps(language, wikitext, expected):
    assert re.sub(" +", " ", text_of(wikitext, language=language)) == expected


@pytest.mark.parametrize(
    ("language", "names"),
    [
        ("en", "VIE RUS|1914 date|4_July_1776|dmy S|2 ND IND"),
        ("en", "1er XIXe_si\u00e8cle enS|a H\u00f6he|1 heure|1 Mme petit|a citation_bloc|a"),
        ("fr", "VIE RUS IND ND enS|a H\u00f6he|1 Zitat|a date|hier"),
        ("fr", "unit\u00e9|dix|km unit\u00e9|3|km|deux heure|1|2|3 s|2 e|3 unidad|3"),
        ("de", "RUS|1914 date|4|mai|1776 ruS|a|b 1er s|XIX exp|2"),
    ],
)
def test_templates_of_other_languages_leave_nothing_and_are_counted(language, names):
    names = [name.replace("_", " ") for name in names.split()]
    counts = Counter()
    wikitext = " and ".join(f"some {{{{{name}}}}} words" for name in names)
    found = to_text(wikitext, TextOptions(language=language), counts)
    assert found == " and ".join("some words" for _ in names)
    named = parted(counts)[1]
    assert sum(named.values()) == len(names) == counts[TEMPLATES]
    assert set(named) == {name[:1].upper() + name[1:] for name in (name.partition("|")[0] for name in names)}


LISTS = "Intro.\n* one\n* This item is a whole sentence of more than five words.\n# three\n; term\n"


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ("drop", "Intro."),
        ("sentences", "Intro.\nThis item is a whole sentence of more than five words."),
        ("keep", "Intro.\none\nThis item is a whole sentence of more than five words.\nthree\nterm"),
    ],
)
def test_lists_are_dropped_or_kept_as_asked(lists, expected):
    assert text_of(LISTS, lists=lists) == expected


def test_an_item_that_ends_in_a_name_behind_a_sentence_is_kept():
    item = "Cel-shading imitates drawings by the means of a program. Examples include The Iron Giant (1999)"
    assert text_of(f"* {item}\n* [[Roe, J.]] Title. London\n") == item


def test_a_definition_beside_its_term_is_kept():
    assert text_of("; Blocking: A plan of the runs in an experiment.\n; Block: part\n") == (
        "Blocking: A plan of the runs in an experiment."
    )


ENUMERATION = "One of:\n* growth, which is in quantity;\n* locomotion;<ref>x</ref> and\n* change in quality.\n* other\n"


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ("drop", "One of:"),
        ("sentences", "One of:\ngrowth, which is in quantity; locomotion; and change in quality."),
        ("keep", "One of:\ngrowth, which is in quantity;\nlocomotion; and\nchange in quality.\nother"),
    ],
)
def test_items_that_are_clauses_of_one_sentence_are_that_sentence(lists, expected):
    assert text_of(ENUMERATION, lists=lists) == expected


PAGE = """Lead.
== A ==
Text a.
=== B ===
* x
== C ==
=== D ===
Text d.
== See also ==
Not this.
=== E ===
Nor this.
== F ==
Text f.
== References ==
"""


def test_headings_stay_on_request_where_text_follows():
    assert text_of(PAGE, headings=True) == "Lead.\nA\nText a.\nC\nD\nText d.\nF\nText f."
    assert text_of(PAGE) == "Lead.\nText a.\nText d.\nText f."


def test_sections_without_text_are_those_that_the_config_names():
    assert text_of(PAGE, without_text=frozenset({"c"})) == "Lead.\nText a.\nNot this.\nNor this.\nText f."


def test_pictures_and_categories_go_by_the_names_of_the_wiki():
    assert text_of("a [[Datei:b]] c", dropped_prefixes=frozenset({"datei"})) == "a c"


words = st.text(alphabet="abcdefgéß", min_size=1, max_size=8)
marked = st.one_of(
    words.map(lambda word: (word, word)),
    words.map(lambda word: (f"'''{word}'''", word)),
    words.map(lambda word: (f"''{word}''", word)),
    words.map(lambda word: (f"[[{word}]]", word)),
    st.tuples(words, words).map(lambda pair: (f"[[{pair[0]}|{pair[1]}]]", pair[1])),
    words.map(lambda word: (f"[http://x.org/{word} {word}]", word)),
    words.map(lambda word: (f"{{{{lang|de|{word}}}}}", word)),
    words.map(lambda word: (f"<small>{word}</small>", word)),
    words.map(lambda word: (f"{word}<ref>{{{{cite|{word}}}}} [[x]]</ref>", word)),
    words.map(lambda word: (f"{word}<!-- {word} -->", word)),
    words.map(lambda word: (f"{{{{unknown|{word}|{{{{x}}}}}}}} {word}", word)),
    words.map(lambda word: (f"{word} [[File:{word}.png|{word} [[x]]]]", word)),
)
paragraphs = st.lists(st.lists(marked, min_size=1, max_size=8), max_size=5)
between = st.sampled_from(
    [
        "\n\n",
        "\n\n{{Infobox\n| a = {{b}}\n}}\n\n",
        "\n\n{|\n| a || b\n|-\n| {{c}}\n|}\n\n",
        "\n== Title ==\n",
        "\n\n[[File:a.png|thumb|x]]\n\n",
        "\n<!-- x -->\n\n",
        "\n* item\n\n",
        "\n\n<gallery>\na\n</gallery>\n\n",
    ]
)


@given(paragraphs, st.data())
def test_every_word_of_prose_stays_and_all_else_goes(parts, data):
    """Paragraphs of marked words with blocks between them: what is expected is known word by word."""
    wikitext = ""
    for number, part in enumerate(parts):
        wikitext += (data.draw(between) if number else "") + " ".join(mark for mark, _ in part)
    expected = [" ".join(word for _, word in part) for part in parts]
    found = text_of(wikitext)
    assert [re.sub(r"\s+", " ", line) for line in found.split("\n") if line] == expected


@given(st.text(alphabet="[]{}|'<>/=*#:;! \nab&-_h:rtp", max_size=60))
def test_any_text_is_read_and_leaves_no_private_sign(text):
    found = text_of(text, headings=True, lists="keep")
    assert not re.search("[\x00-\x08]|\n\n\n|''|\\[\\[|\\{\\{", found)


@pytest.mark.parametrize(
    "piece",
    [
        "{{",
        "[[",
        "''",
        "'''''",
        "<b>",
        "[http://a ",
        "<ref>",
        "* ",
        "=",
        "&",
        "<",
        "{{lang|",
        "[[a|",
        "{|\n|",
        "_",
        "<i ",
        "a'''b''",
        "{{lang|a|[[b|",
    ],
)
def test_a_paragraph_of_nothing_but_openers_ends(piece):
    """The parser alone takes minutes for some of these."""
    text_of(piece * 5_000)


def test_templates_that_a_sentence_misses_are_counted_by_name():
    wikitext = (
        "{{Infobox x|a={{inner}}}}\n{{Box alone}}\n"
        "'''A''' is {{odd_one|3}} long{{citation needed}}.<ref>{{inRef|a}}</ref>\n"
        "* An item with {{odd one}} and {{nowrap|a {{deep|b}} c}}, {{#if:x|y}} and {{cite web|url=x}}.\n"
        "{|\n| a cell of {{cells|x}} here\n|}\n{{a}}{{b}}\n"
    )
    counts = Counter()
    to_text(wikitext, TextOptions(), counts)
    numbers, named = parted(counts)
    assert named == {"Odd one": 2, "#if": 1, "Deep": 1} and numbers[TEMPLATES] == 4
    assert not any(name.startswith(TEMPLATE) for name in numbers)


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("It is {{odd\n|a\n}} long.", {"Odd": 1}),
        ("{{Infobox\n|a={{b}}\n}}\n'''It''' is long.\n{{navbox\n|c}}", {}),
        ("{{Infobox place\n|a=b\n}}'It' is long, {{Taxobox}}too.", {}),
        ("The colour {{legend|red|lost}} is {{legend|blue|won}} here.", {"Legend": 2}),
        ("The {{lang|de}} and {{convert|many|km}} and {{lang|de|{{odd}}}}.", {"Lang": 1, "Convert": 1, "Odd": 1}),
        ("At {{coord|1|N|2|E|display=title}} {{shy}} {{IPA-de|x|lang}} {{sic|?}} {{nowrap|}} it is.", {}),
        ("At the {{coord|somewhere|else}} it is.", {"Coord": 1}),
        ("A fact{{sfn|A|p=1}} and{{citation needed\n|date=x}} more.", {}),
    ],
)
def test_what_leaves_nothing_in_a_sentence_is_counted_wherever_its_lines_end(wikitext, expected):
    counts = Counter()
    to_text(wikitext, TextOptions(), counts)
    assert parted(counts)[1] == expected and counts[TEMPLATES] == sum(expected.values())
