"""
The reference of extensions, made from the docstrings of the package ``ferry``.

    make extensions

writes it to docs/reference/extensions.md, to be done after a docstring was changed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ferry
from ferry import testing
from ferry.extensions import integrity, oidc, webhooks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "extensions.md"
_HEAD = """\
# Extensions

What a module that [`CFP_API_EXTENSIONS`](settings.md#cfp_api_extensions) names imports from `ferry`. Nothing
else of Ferry's is for extensions. [How to write one](../how-to/write-an-extension.md), and
[when its functions run](../explanation/when-extensions-run.md).

<!-- Made from the docstrings of ferry/: make extensions -->
"""
_ORDER = (
    *("Extension", "Write", "Transaction", "Record", "Caller", "Refused"),
    *("Commit", "Change", "Landing", "Divergence", "Failed"),
)
_OF_TESTS = ("Ferry", "Repository", "Commit", "NotPushed")
_SECTION = re.compile(r"^(Args|Attributes|Raises):\n", re.MULTILINE)
_TITLES = {"Args": "", "Attributes": "", "Raises": "Raises:"}


def page() -> str:
    """
    Return the page.
    """
    classes = [line for name in _ORDER for line in _class(getattr(ferry, name))]
    tests = [line for name in _OF_TESTS for line in _class(getattr(testing, name), "ferry.testing.")]
    modules = [
        line
        for each in (integrity, oidc, webhooks, testing)
        for line in (f"## `{each.__name__}`\n", *_text(each))
    ]
    return "\n".join([_HEAD, *classes, *modules, *tests])


def _class(found: type, prefix: str = "ferry.") -> Iterator[str]:
    yield f"## `{prefix}{found.__name__}`\n"
    yield from _text(found)
    for name, member in vars(found).items():
        if name.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
            continue
        shown = name if isinstance(member, property) else f"{name}({', '.join(_parameters(member))})"
        yield f"### `{shown}`\n"
        yield from _text(member)


def _parameters(function: Any) -> Iterator[str]:
    is_keyword = False
    for each in list(inspect.signature(function).parameters.values())[1:]:
        if each.kind is each.KEYWORD_ONLY and not is_keyword:
            is_keyword = True
            yield "*"
        mark = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        name = "sheets" if each.name == "given" else each.name
        yield f"{mark}{name}" + ("" if each.default is each.empty else f"={each.default!r}")


def _text(documented: Any) -> Iterator[str]:
    text, *sections = _SECTION.split(inspect.getdoc(documented) or "")
    yield _plain(text) + "\n"
    for title, entries in zip(sections[::2], sections[1::2], strict=True):
        if _TITLES[title]:
            yield _TITLES[title] + "\n"
        for entry in re.split(r"\n(?=    \S)", entries.strip("\n")):
            name, _, said = " ".join(entry.split()).partition(": ")
            names = ", ".join(f"`{each}`" for each in name.split(", "))
            yield f"- {names}: {_plain(said)}"
        yield ""


def _plain(text: str) -> str:
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return re.sub(r"(?<!\*)\*(\w+)\*(?!\*)", r"`\1`", text).strip()


if __name__ == "__main__":
    PAGE.write_text(page())
