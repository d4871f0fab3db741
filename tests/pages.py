"""
A page as somebody sees it who has a browser and no JavaScript.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

from flask.testing import FlaskClient
from werkzeug.test import TestResponse


@dataclass
class Form:
    """
    A form, what it carries, and what its button says.
    """

    action: str
    fields: dict[str, str] = field(default_factory=dict)
    button: str = ""
    method: str = "post"


def _beside(form: Form, button: dict[str, str | None]) -> Form:
    """
    Return what a further button of *form* sends.
    """
    named = {button["name"] or "": button.get("value") or ""} if "name" in button else {}
    return Form(button.get("formaction") or form.action, {**form.fields, **named})


class Page(HTMLParser):
    """
    Reads the text, the forms, the links and the tags of a page.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.forms: list[Form] = []
        self.links: list[tuple[str, str]] = []  # what each says, and where it leads
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(html)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        self._open.append(tag)
        if tag == "a":
            self.links.append(("", given["href"] or ""))
        elif tag == "form":
            self.forms.append(Form(given["action"] or "", method=given["method"] or ""))
        elif tag == "button" and self.forms and "form" in self._open and self.forms[-1].button:
            self.forms.append(_beside(self.forms[-1], given))
        elif tag == "select" and given.get("name"):
            self.forms[-1].fields[given["name"] or ""] = ""
        elif tag == "input" and given.get("name") and given.get("type") != "radio":  # none is chosen
            self.forms[-1].fields[given["name"] or ""] = given.get("value") or ""

    def handle_data(self, data: str) -> None:
        if "title" not in self._open[-1:]:
            self.words.append(data)
        if "a" in self._open and self.links:
            said, address = self.links[-1]
            self.links[-1] = " ".join(f"{said} {data}".split()), address
        if self._open[-1:] == ["button"] and self.forms:
            self.forms[-1].button += data

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def form(self, button: str, **fields: str) -> Form:
        """
        Return the form whose button says *button*, and which carries *fields*.
        """
        found = [
            form for form in self.forms if form.button == button and fields.items() <= form.fields.items()
        ]
        assert found, f"{button!r} is not among {[form.button for form in self.forms]}"
        return found[0]


class Browser:
    """
    Somebody with cookies.
    """

    def __init__(self, client: FlaskClient) -> None:
        self.client = client
        self.answer: TestResponse | None = None

    def open(self, address: str = "/status", **options: Any) -> Page:
        self.answer = self.client.get(address, **options)
        page = Page(self.answer.text)
        self.answer.close()  # a file that is sent stays open else
        return page

    def follow(self, page: Page, words: str, **options: Any) -> Page:
        """
        Follow the first link that says *words*.
        """
        address = next(address for said, address in page.links if said == words)
        assert self.answer is not None
        return self.open(urljoin(self.answer.request.path, address), **options)

    def press(self, page: Page, button: str, *, carrying: dict[str, str] | None = None, **typed: str) -> Page:
        """
        Press a button, and return the page that it leads to.
        """
        form = page.form(button, **(carrying or {}))
        fields = {**form.fields, **typed}
        if form.method == "get":
            self.answer = self.client.get(form.action, query_string=fields, follow_redirects=True)
        else:
            self.answer = self.client.post(form.action, data=fields, follow_redirects=True)
        return Page(self.answer.text)
