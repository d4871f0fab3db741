"""
Importing the extensions that ``CFP_API_EXTENSIONS`` names, in its order.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from ferry.extension import Extension


class ExtensionError(Exception):
    """
    A module that holds no usable extension. The text names the module.
    """


def load(modules: Sequence[str]) -> tuple[Extension, ...]:
    """
    Import *modules*; returns their extensions, in the order in which they are found.

    As with gunicorn and Celery, a module may be in the current directory; those of PYTHONPATH come first.

    Raises:
        ExtensionError: A module cannot be imported, or registers nothing; or two extensions have one name.
    """
    if modules and os.getcwd() not in sys.path:
        first = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        sys.path.insert(len(list(filter(None, first))), os.getcwd())
    found: dict[str, Extension] = {}
    for module in modules:
        for extension in _extensions_in(module):
            if found.setdefault(extension.name, extension) is not extension:
                raise ExtensionError(f"{module}: another extension is named {extension.name!r} too")
    return tuple(found.values())


def _extensions_in(module: str) -> list[Extension]:
    try:
        names = vars(importlib.import_module(module))
    except Exception as exc:
        # The module is not ours: whatever it raises, the start ends with a line that names it.
        said = f"{type(exc).__name__}: {_line(exc)}{_place(exc)}"
        raise ExtensionError(f"{module}: cannot be imported: {said}") from exc
    listed = names.get("extensions")
    values = [*(listed if isinstance(listed, list) else ()), *names.values()]
    found = [each for each in values if isinstance(each, Extension) and each.hooks]
    if not found and not isinstance(listed, list):  # an empty list: its settings name none
        raise ExtensionError(f"{module}: registers nothing: it holds no ferry.Extension with a hook")
    return found


def _place(error: Exception) -> str:
    """
    Return the file and the line of a module at which its import has failed.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"]
    return f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
