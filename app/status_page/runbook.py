"""
The runbook for the status page: converts the Markdown that the runbook uses to HTML.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markupsafe import Markup, escape

# In a wheel beside this module, in a checkout among the docs.
_PLACES = (
    Path(__file__).with_name("runbook.md"),
    Path(__file__).resolve().parents[2] / "docs" / "operations" / "runbook.md",
)


@dataclass(frozen=True, slots=True)
class Section:
    """
    A section of the runbook.
    """

    name: str
    html: Markup


@cache
def sections() -> tuple[Section, ...]:
    """
    Return the sections; most are named for the reason of a failure.
    """
    path = next((place for place in _PLACES if place.exists()), None)
    if path is None:
        return ()
    parts = re.split(r"^#{1,2} (.+)\n", path.read_text("utf-8"), flags=re.MULTILINE)
    return tuple(Section(name, as_html(text)) for name, text in zip(parts[1::2], parts[2::2], strict=True))


# Paragraphs and blocks of code, with code, stress and links in the text.
_BLOCK = re.compile(
    r"^```\w*\n(?P<fenced>.*?)^```$|(?P<indented>(?:^ {4}[^\n]*\n?)+)|(?P<text>(?:^(?!```)[^\n]+(?:\n|\Z))+)",
    re.MULTILINE | re.DOTALL,
)
_INLINE = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<strong>[^*]+)\*\*|\[(?P<label>[^]]+)\]\((?P<target>[^)]+)\)")


def as_html(text: str) -> Markup:
    """
    Return a section's Markdown as HTML.

    A link to another page of the docs, which Ferry does not serve, names that page instead.
    """
    return Markup().join(map(_block, _BLOCK.finditer(text)))


def _block(found: re.Match[str]) -> Markup:
    if found["text"]:
        return Markup("<p>{}</p>\n").format(_inline(found["text"].strip()))
    code = found["fenced"] or re.sub(r"^ {4}", "", found["indented"], flags=re.MULTILINE)
    return Markup('<pre tabindex="0">{}</pre>\n').format(code.strip("\n"))


def _inline(text: str) -> Markup:
    html, end = Markup(), 0
    for found in _INLINE.finditer(text):
        html += escape(text[end : found.start()]) + _element(found)
        end = found.end()
    return html + escape(text[end:])


def _element(found: re.Match[str]) -> Markup:
    if found["code"]:
        return Markup("<code>{}</code>").format(found["code"])
    if found["strong"]:
        return Markup("<strong>{}</strong>").format(_inline(found["strong"]))
    label, target = _inline(found["label"]), found["target"]
    if target.startswith(("#", "https://")):
        return Markup('<a href="{}">{}</a>').format(target, label)
    page = target.partition("#")[0].removeprefix("../")
    return Markup("{} ({})").format(label, page)
