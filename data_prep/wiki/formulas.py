r"""Formulas in TeX -> plain characters, where that is easy: `x_1 \le y` is `x1`, a sign and `y`; else `formula`.

A hole in a sentence is worse for a language model than a word too general, and TeX source is no English.
"""

from __future__ import annotations

import re

WORD = "formula"
"""Stands for a formula that is not put in plain characters."""

_LONGEST = 60
_GREEK = """
    alpha \u03b1 beta \u03b2 gamma \u03b3 delta \u03b4 epsilon \u03b5 varepsilon \u03b5 zeta \u03b6 eta \u03b7
    theta \u03b8 vartheta \u03d1 iota \u03b9 kappa \u03ba lambda \u03bb mu \u03bc nu \u03bd xi \u03be pi \u03c0
    rho \u03c1 sigma \u03c3 tau \u03c4 upsilon \u03c5 phi \u03c6 varphi \u03c6 chi \u03c7 psi \u03c8 omega \u03c9
    Gamma \u0393 Delta \u0394 Theta \u0398 Lambda \u039b Xi \u039e Pi \u03a0 Sigma \u03a3 Phi \u03a6 Psi \u03a8
    Omega \u03a9
"""
_SIGNS = """
    times \u00d7 cdot \u00b7 pm \u00b1 infty \u221e in \u2208 notin \u2209 subset \u2282 subseteq \u2286 cup \u222a
    cap \u2229 forall \u2200 exists \u2203 neg \u00ac land \u2227 lor \u2228 wedge \u2227 vee \u2228 circ \u2218
    partial \u2202 nabla \u2207 degree \u00b0 ldots \u2026 dots \u2026 cdots \u2026 prime \u2032 emptyset \u2205
    varnothing \u2205 sum \u2211 prod \u220f int \u222b propto \u221d div \u00f7 ast \u2217 ell \u2113 hbar \u210f
    aleph \u2135 langle \u27e8 rangle \u27e9 lnot \u00ac supset \u2283 supseteq \u2287 oplus \u2295 otimes \u2297
    bot \u22a5 perp \u22a5 top \u22a4 parallel \u2225 angle \u2220 mid | setminus \u2216 star \u22c6 dagger \u2020
"""
_RELATIONS = """
    le \u2264 leq \u2264 ge \u2265 geq \u2265 ne \u2260 neq \u2260 approx \u2248 equiv \u2261 sim \u223c to \u2192
    rightarrow \u2192 Rightarrow \u21d2 mapsto \u21a6 leftarrow \u2190 leftrightarrow \u2194 Leftrightarrow \u21d4
    iff \u21d4 implies \u21d2 longrightarrow \u2192 cong \u2245 ll \u226a gg \u226b vdash \u22a2 models \u22a8
"""
"""They have a space on either side."""

_words = [*_GREEK.split(), *_SIGNS.split()]
_relations = _RELATIONS.split()
_COMMANDS = dict(zip(_words[::2], _words[1::2], strict=True))
_COMMANDS |= {name: f" {sign} " for name, sign in zip(_relations[::2], _relations[1::2], strict=True)}
_DRESS = re.compile(
    r"\\(?:mathrm|mathbf|mathit|mathsf|mathcal|mathbb|mathfrak|boldsymbol|operatorname|text|textrm|textit|bar"
    r"|hat|vec)\b\s*"
)
_SPACES = re.compile(r"\\(?:[,;:! ]|quad\b|qquad\b|left\b|right\b|displaystyle\b|textstyle\b|big\b)")
_FUNCTIONS = re.compile(r"\\(sin|cos|tan|log|ln|exp|min|max|lim|det|dim|ker|gcd|arg|deg|mod)\b")
_COMMAND = re.compile(r"\\([a-zA-Z]+)\s*")


def formula(source: str) -> str:
    """Plain characters for TeX, or `WORD`."""
    text = _DRESS.sub("", source)
    text = _SPACES.sub(" ", text)
    text = _FUNCTIONS.sub(r"\1", text)
    text = _COMMAND.sub(lambda match: _COMMANDS.get(match[1], match.group()), text)
    text = re.sub(r"\^\{?\\?circ\}?|\^\u00b0", "\u00b0", text)
    text = re.sub(r"_\{?(\w{1,3})\}?", r"\1", text)
    text = re.sub(r"\^\{?([\w+\u2212-]{1,3})\}?", r"^\1", text)
    text = " ".join(text.replace("{", "").replace("}", "").replace("~", " ").split())
    is_plain = text and len(text) <= _LONGEST and "\\" not in text and "&" not in text
    return text if is_plain else WORD
