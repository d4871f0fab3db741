"""
That the runbook's Markdown reads as HTML on the status page.
"""

from __future__ import annotations

import re

import pytest

from ferry.app.status_page.runbook import as_html, sections


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("one\ntwo\n\nthree\n", "<p>one\ntwo</p>\n<p>three</p>\n"),
        ("**Do.** Run `a <b>`.\n", "<p><strong>Do.</strong> Run <code>a &lt;b&gt;</code>.</p>\n"),
        ("then\n\n    a\n    b | c\n\nend\n",
         '<p>then</p>\n<pre tabindex="0">a\nb | c</pre>\n<p>end</p>\n'),
        ("```console\n$ a\n\n  b\n```\n", '<pre tabindex="0">$ a\n\n  b</pre>\n'),
        ("see [auth](#auth)", '<p>see <a href="#auth">auth</a></p>\n'),
        ("see [`X`](../reference/settings.md#x)", "<p>see <code>X</code> (reference/settings.md)</p>\n"),
        ("see [x](javascript:alert)", "<p>see x (javascript:alert)</p>\n"),
        ("<script>", "<p>&lt;script&gt;</p>\n"),
    ],
)  # fmt: skip
def test_its_markdown_becomes_html(text: str, html: str):
    assert str(as_html(text)) == html


def test_nothing_of_the_runbook_is_left_as_markdown():
    found = "".join(section.html for section in sections())
    assert len(found) > 5000
    prose = re.sub(r"<pre.*?</pre>|<code>.*?</code>", "", found, flags=re.DOTALL)
    assert not re.findall(r"`|\*\*|\]\(|^    ", prose, re.MULTILINE)
