"""
Writes ``docs/reference/licences.md``: what is installed with Ferry, and under which licence.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "licences.md"
_HEAD = """# Licences

Ferry is Apache-2.0. These packages are installed with it (`requirements/run.txt`), each with the licence that
its own metadata names. `make licences` writes this page, and a test holds it to the pins.

| package | version | licence |
|---|---|---|
"""


def page() -> str:
    """
    Return the page as it should be for the pins as they are.
    """
    pins = re.findall(
        r"^([A-Za-z0-9._-]+)==([^\s\\;]+)", (ROOT / "requirements" / "run.txt").read_text(), re.M
    )
    return _HEAD + "".join(f"| {name} | {version} | {_licence(name)} |\n" for name, version in sorted(pins))


def _licence(name: str) -> str:
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return "not installed here (for another Python)"
    if expression := found.get("License-Expression"):
        return str(expression)
    classifiers = [
        classifier.rpartition(" :: ")[2]
        for classifier in found.get_all("Classifier") or []
        if classifier.startswith("License :: OSI Approved ::")
    ]
    first_line = (found.get("License") or "").strip().partition("\n")[0]
    return ", ".join(classifiers) or first_line[:80] or "not named"


def main() -> None:
    """
    Write the page.
    """
    PAGE.write_text(page())
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
