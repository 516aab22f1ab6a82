"""MediaWiki dumps as Wikimedia writes them, of invented pages."""

import bz2
from html import escape

SITE = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <dbname>dewiki</dbname>
    <namespaces>
      <namespace key="-2" case="first-letter">Medium</namespace>
      <namespace key="0" case="first-letter" />
      <namespace key="6" case="first-letter">Datei</namespace>
      <namespace key="14" case="first-letter">Kategorie</namespace>
    </namespaces>
  </siteinfo>
"""
END = "</mediawiki>\n"


def page(title, text, *, number=1, namespace=0, redirect=None, model="wikitext"):
    """One page."""
    target = f'\n    <redirect title="{escape(redirect)}" />' if redirect else ""
    return f"""  <page>
    <title>{escape(title, quote=False)}</title>
    <ns>{namespace}</ns>
    <id>{number}</id>{target}
    <revision>
      <id>{number + 1000}</id>
      <model>{model}</model>
      <format>text/x-wiki</format>
      <text bytes="{len(text.encode())}" xml:space="preserve">{escape(text)}</text>
    </revision>
  </page>
"""


def dump(pages):
    """A whole dump of pages made by `page`."""
    return (SITE + "".join(pages) + END).encode()


def multistream(pages, each):
    """A dump of many bzip2 streams, each of so many pages, and its index."""
    data, index = bz2.compress(SITE.encode()), []
    for start in range(0, len(pages), each):
        numbers = range(start, min(start + each, len(pages)))
        index += [f"{len(data)}:{number}:Title: {number}\n" for number in numbers]
        data += bz2.compress("".join(pages[start : start + each]).encode())
    return data + bz2.compress(END.encode()), bz2.compress("".join(index).encode())
