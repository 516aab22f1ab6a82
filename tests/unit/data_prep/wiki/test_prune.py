"""What is cut out of wikitext before it is parsed."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.wiki.prune import HELD, HOLE, prune


def pruned(text, counts=None):
    """With templates named `keep` and links that are no pictures."""
    counts = Counter() if counts is None else counts
    return prune(text, lambda name: name.strip() == "keep", lambda target: not target.startswith("File:"), counts)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a<!-- no -->b", "ab"),
        ("a\n<!-- no -->\nb", "a\nb"),
        ("a<!-- for ever", "a"),
        ("a<ref name=x>{{cite|1}} [[b]]</ref>c", "a@c"),
        ('a<ref name="x" />c<REF>1</REF>', "a@c@"),
        ("a<ref>open b<ref>closed</ref>c", "a@open b@c"),
        ("a</ref>b", "ab"),
        ("a {{Infobox\n| b = c\nd", "a \n| b = c\nd"),
        ("a {{b c", "a b c"),
        ("{{Infobox|a={{b|{{c}}}}}}\nd", "@\nd"),
        ("a {{keep|b{{c}}}} d", "a {{keep|b@}} d"),
        ("a {{{1|b}}} c", "a @ c"),
        ("a {{{{b}}|c}} d", "a @ d"),
        ("{|\n| a\n{|\n| b\n|}\n|}\nc", "@\nc"),
        ("a {| b |} c", "a {| b |} c"),
        ("<table><tr><td><table></table></td></tr></table>a", "@a"),
        ("[[File:x.jpg|thumb|a [[b]] c]]d", "@d"),
        ("[[a|b]] [[c]]", "[[a|b]] [[c]]"),
        ("<math>x_{a}}}</math> {{b}}", "<math>x_{a}}}</math> @"),
        ("<nowiki>{{a}}</nowiki>", "<nowiki>{{a}}</nowiki>"),
        ("<pre>{{</pre>b}}", "@b"),
        ("<gallery>\nFile:a\n</gallery>b", "@b"),
        ("a {{ b", "a  b"),
        ("a }} b ]] c [[ d", "a  b  c  d"),
        ("[[a {{b]]", "a b"),
        ("{{b [[a }} c", "@ c"),
        ("a<ref b", "a b"),
        ("a <b c", "a &lt;b c"),
        ("{{keep|a\nb}}", f"{{{{keep|a{HELD}b}}}}"),
        (f"a{HOLE}b{HELD}c", "abc"),
    ],
)
def test_what_leaves_no_text_is_cut_out_and_a_hole_marked(text, left):
    assert pruned(text).replace(HOLE, "@") == left


FRAMES = [
    ("{{cut|", "}}"),
    ("{{keep|", "}}"),
    ("[[a|", "]]"),
    ("[[File:a|", "]]"),
    ("\n{|\n|", "\n|}\n"),
    ("<b>", "</b>"),
]
pieces = st.recursive(
    st.sampled_from(["word", " ", ". ", "\n", "\n\n", "'''b'''", "é"]),
    lambda inner: st.one_of(
        *(
            st.lists(inner, max_size=4).map(lambda parts, frame=frame: frame[0] + "".join(parts) + frame[1])
            for frame in FRAMES
        ),
        st.lists(inner, max_size=3).map("".join),
    ),
    max_leaves=20,
)


@given(pieces)
def test_well_nested_markup_is_kept_or_cut_whole(text):
    """What is left has as many openers as closers, nothing of what is cut, and pruning it again changes nothing."""
    left = pruned(text)
    assert "{{cut" not in left and "File:" not in left and "{|" not in left
    assert left.count("{{") == left.count("}}") and left.count("[[") == left.count("]]")
    again = pruned(left.replace(HELD, "\n").replace(HOLE, ""))
    assert again.replace(HELD, "\n").replace(HOLE, "") == left.replace(HELD, "\n").replace(HOLE, "")


@given(
    st.lists(
        st.sampled_from(
            [
                "{{",
                "}}",
                "[[",
                "]]",
                "{|",
                "|}",
                "\n",
                "{{{",
                "}}}",
                "<ref>",
                "</ref>",
                "<!--",
                "-->",
                "<math>",
                "</math>",
                "<table>",
                "</table>",
                "a",
                "|",
                "keep",
                "File:",
                "{",
                "}",
                "<",
                "/>",
            ]
        )
    ).map("".join)
)
def test_any_markup_however_broken_is_read_and_no_brace_is_left_alone(text):
    left = pruned(text)
    assert left.count("[[") >= left.count("]]") or "<math>" in left
    assert len(left) <= len(text) + len("lt;") * text.count("<") + text.count("{") + text.count("[")


@pytest.mark.parametrize(
    "opener", ["{{", "[[", "{|\n", "<ref>", "<math>", "<!--", "{{{", "<table>", "<ref ", "{{a|", "[[a|", "''", "<b>"]
)
@pytest.mark.parametrize("closer", ["", "}}", "]]", "</ref>", "|}"])
def test_fifty_thousand_openers_are_read_in_one_pass(opener, closer):
    """Time that grew with the square would be minutes."""
    text = opener * 50_000 + closer * 50_000
    assert len(pruned(text)) <= 2 * len(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a <!-- b", {"unclosed_comments": 1}),
        ("a<ref>b", {"unclosed_markup": 1}),
        ("a {{b [[c", {"unclosed_markup": 2}),
        ("{|\n| a", {"unclosed_markup": 1}),
        ("a {{b [[c}}", {"unclosed_markup": 1}),
        ("a <!-- b --> {{c}} [[d]] <ref>e</ref>", {"template C": 1, "templates_not_rendered": 1}),
    ],
)
def test_what_has_no_end_is_counted(text, found):
    counts = Counter()
    pruned(text, counts)
    assert +counts == found
