"""
Whether a sheet's declaration can be used, in gitsheets' own words.

gitsheets checks a declaration when it opens the sheet: the table's form, the path
template, the schema, the contracts. Every address of the sheet asks that here first,
so that a wrong declaration is one clear problem at those addresses and nowhere else.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any

import gitsheets
from cachetools import LRUCache, cached

from app.errors import SheetConfigError

_CHECKED = 1024
# gitsheets opens a sheet without a transaction only to verify a contract. RFC 2606 reserves ".invalid",
# so that no sheet implements this one: a sheet that opens is one of which gitsheets says so.
_NO_CONTRACT = {"$id": "https://ferry.invalid/none", "type": "object"}
_OPENS = "contract_unsatisfied"
_CALLED = re.compile(r"(?<![\w.])(\w+)\s*\(")  # a function's name, which gitsheets takes for a field's
OUTDATED_HINT = "gitsheets 1.0 ignores these keys; declare the fields in [gitsheet.schema] and remove them"
_BEFORE_1_0 = ("type", "enum", "default")  # keys of [gitsheet.fields.NAME] that gitsheets 1.0 ignores


@cached(
    LRUCache(_CHECKED),
    key=lambda git_dir, commit, name, place, root, versions: (git_dir, name, versions),
    lock=threading.Lock(),
)
def check(
    git_dir: str, commit: str, name: str, place: str, root: str, versions: tuple[str | None, ...]
) -> None:
    """
    Have gitsheets open the sheet *name*; takes half a millisecond, once for each declaration.

    Args:
        commit: Full object name of a commit that declares the sheet.
        place: Where the declaration stands in the commit's tree.
        root: The directory of the tree that the declaration's paths begin in.
        versions: Object names of the declaration and of the contracts that it may name.

    Raises:
        SheetConfigError: gitsheets refuses the declaration.
    """
    try:
        gitsheets.verify_sheet_contract(
            git_dir, commit, name, _NO_CONTRACT, mode="declared", config_path=place, root=root
        )
    except (gitsheets.ConfigError, gitsheets.PathTemplateError) as exc:
        raise unusable(name, exc) from exc
    except gitsheets.ContractError as exc:
        if exc.code != _OPENS:
            raise unusable(name, exc) from exc


def unusable(name: str, why: object) -> SheetConfigError:
    """
    Return the error that says why the sheet *name* cannot be used.
    """
    return SheetConfigError(f"The sheet {name!r} cannot be used: {why}")


def fails_on(template: str, record: Mapping[str, Any]) -> bool:
    """
    Whether the path *template*, and not *record*, is at fault where gitsheets makes no path of the two.

    gitsheets says the same of both. The template is at fault where every field that
    it names holds text: an expression that fails then fails on any record.
    """
    names = set(gitsheets.template_field_names(template)) - set(_CALLED.findall(template))
    return all(isinstance(record.get(name), str) and record[name] for name in names)


def outdated(config: Mapping[str, Any]) -> list[str]:
    """
    Return the keys of a ``[gitsheet]`` table that only gitsheets before 1.0 obeys: ``fields.age.type``.
    """
    fields = config.get("fields", {})
    return [
        f"fields.{name}.{key}"
        for name, rules in fields.items()
        if isinstance(rules, dict)
        for key in _BEFORE_1_0
        if key in rules
    ]
