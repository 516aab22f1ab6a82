"""What differs from wiki to wiki: its language, the names of its namespaces, and the sections of its pages that are no
prose. The head of a dump tells the first two."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from data_prep.wiki.files import Chunk

FILE, CATEGORY, MEDIA = 6, 14, -2
"""Numbers of the namespaces whose links leave no text."""

_HEAD = 1 << 20
"""Bytes in which a dump's head ends, or it has none."""

_LANGUAGE = re.compile(r'<mediawiki\b[^>]*\bxml:lang="([A-Za-z]+)')
_NAMESPACE = re.compile(r'<namespace key="(-?\d+)"[^>]*>([^<]*)</namespace>')
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"'}

_ENGLISH = (
    "references", "external links", "see also", "further reading", "notes", "bibliography", "sources", "footnotes",
    "citations", "gallery", "notes and references", "references and notes", "works cited", "notes and citations",
    "image gallery",
)  # fmt: skip
SECTIONS_WITHOUT_TEXT: dict[str, tuple[str, ...]] = {
    "en": _ENGLISH,
    "de": ("einzelnachweise", "weblinks", "literatur", "siehe auch", "quellen", "anmerkungen", "fu\u00dfnoten",
           "belege", "anmerkungen und einzelnachweise", "einzelnachweise und anmerkungen", "nachweise",
           "galerie", "weblink"),
    "fr": ("r\u00e9f\u00e9rences", "notes et r\u00e9f\u00e9rences", "voir aussi", "liens externes",
           "lien externe", "articles connexes",
           "bibliographie", "annexes", "notes", "sources", "galerie", "liens internes", "article connexe"),
    "es": ("referencias", "enlaces externos", "v\u00e9ase tambi\u00e9n", "bibliograf\u00eda", "notas",
           "fuentes", "galer\u00eda",
           "notas y referencias", "lecturas adicionales", "enlace externo"),
    "it": ("note", "collegamenti esterni", "voci correlate", "bibliografia", "altri progetti", "fonti",
           "galleria d'immagini"),
    "nl": ("referenties", "externe links", "externe link", "zie ook", "bronnen", "literatuur", "noten", "voetnoten",
           "galerij"),
    "pt": ("refer\u00eancias", "liga\u00e7\u00f5es externas", "ver tamb\u00e9m", "bibliografia", "notas",
           "fontes", "galeria",
           "notas e refer\u00eancias"),
    "sv": ("referenser", "externa l\u00e4nkar", "se \u00e4ven", "k\u00e4llor", "noter", "fotnoter",
           "litteratur", "galleri"),
    "pl": ("przypisy", "linki zewn\u0119trzne", "zobacz te\u017c", "bibliografia", "uwagi", "literatura", "galeria"),
}  # fmt: skip
"""Titles of sections that are lists of works and links, by language, in small letters."""

_OLD_NAMES = {
    "de": ("bild",), "sv": ("bild",), "es": ("imagen",), "it": ("immagine",), "nl": ("afbeelding",), "pt": ("imagem",),
    "pl": ("grafika",),
}  # fmt: skip
"""Other names of the namespace of files, which no dump's head tells."""


@dataclass(frozen=True)
class Site:
    """A wiki, as a dump's head describes it."""

    language: str = "en"
    namespaces: dict[int, str] = field(default_factory=dict)
    """Names by number."""

    def dropped_prefixes(self) -> frozenset[str]:
        """Of targets of links that leave no text, in this wiki's language, in small letters."""
        local = (self.namespaces[number].lower() for number in (FILE, CATEGORY, MEDIA) if number in self.namespaces)
        return frozenset((*local, *_OLD_NAMES.get(self.language, ())))

    def sections_without_text(self) -> frozenset[str]:
        """Titles of sections that are no prose, in small letters, English ones too."""
        return frozenset((*_ENGLISH, *SECTIONS_WITHOUT_TEXT.get(self.language, ())))


def site_of(chunks: Iterable[Chunk]) -> Site:
    """The wiki of a dump, from its first bytes."""
    head = b""
    for chunk in chunks:
        head += chunk.data
        if b"</siteinfo>" in head or b"<page>" in head or len(head) > _HEAD:
            break
    text = head.partition(b"<page>")[0].decode("utf-8", "replace")
    language = _LANGUAGE.search(text)
    names = {int(number): unescaped(name) for number, name in _NAMESPACE.findall(text)}
    return Site(language[1].lower() if language else "en", names)


def unescaped(text: str) -> str:
    """Of XML."""
    for entity, character in reversed(_ENTITIES.items()):
        text = text.replace(entity, character)
    return text
