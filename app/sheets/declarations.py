"""
Checking a sheet's declaration with gitsheets.

gitsheets checks a declaration when it opens the sheet: the table's form, the path template, the schema, the
contracts. Every endpoint of a sheet checks the declaration here first, so that an invalid declaration is one
clear problem at that sheet's endpoints and nowhere else.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import gitsheets
from cachetools import LRUCache

from ferry.app.errors import SheetConfigError
from ferry.app.sheets.evaluation import Evaluations, run_apart
from ferry.worker.process.apart import OverrunError

_CHECKED = 1024
_UNKNOWN = "?"
_faults: LRUCache[tuple[str, str, str, tuple[str | None, ...]], str | None] = LRUCache(_CHECKED)
_lock = threading.Lock()
# gitsheets opens a sheet without a transaction only to verify a contract. No sheet implements this one,
# because RFC 2606 reserves ".invalid": gitsheets then answers "contract_unsatisfied" for each sheet that
# opens.
_NO_CONTRACT = {"$id": "https://ferry.invalid/none", "type": "object"}
_OPENS = "contract_unsatisfied"
OUTDATED_HINT = "gitsheets 1.0 ignores these keys; declare the fields in [gitsheet.schema] and remove them"
_BEFORE_1_0 = ("type", "enum", "default")  # keys of [gitsheet.fields.NAME] that gitsheets 1.0 ignores


def check(
    git_dir: str,
    commit: str,
    name: str,
    place: str,
    root: str,
    versions: tuple[str | None, ...],
    apart: Evaluations | None,
) -> None:
    """
    Check that gitsheets can open the sheet *name*. Takes half a millisecond, once per declaration.

    Args:
        commit: Full object name of a commit that declares the sheet.
        place: Path of the declaration in the commit's tree.
        root: The directory of the tree that the declaration's paths begin in.
        versions: Object names of the declaration and of the contracts that it may name.
        apart: The evaluations to open it in; None for a cheap declaration without code.

    Raises:
        SheetConfigError: gitsheets refuses the declaration, or opening it exceeds its limit.
        BusyError: No child process is free.
        NotEvaluatedError: It must be opened outside of the write lock.
    """
    key = name, place, root, versions  # the answer follows from these objects, in whichever repository
    with _lock:
        fault = _faults.get(key, _UNKNOWN)
    if fault == _UNKNOWN:
        try:
            asked = git_dir, commit, name, place, root
            if apart is None:
                fault = _fault(*asked)
            else:
                fault = apart.answer(("opens", key), lambda: run_apart(key, _fault, *asked))
        except OverrunError as exc:
            raise unusable(name, exc) from exc
        with _lock:
            _faults[key] = fault
    if fault is not None:
        raise unusable(name, fault)


def _fault(git_dir: str, commit: str, name: str, place: str, root: str) -> str | None:
    """
    Return gitsheets' error for a declaration, or None if the sheet opens.
    """
    try:
        gitsheets.verify_sheet_contract(
            git_dir, commit, name, _NO_CONTRACT, mode="declared", config_path=place, root=root
        )
    except (gitsheets.ConfigError, gitsheets.PathTemplateError) as exc:
        return str(exc)
    except gitsheets.ContractError as exc:
        return None if exc.code == _OPENS else str(exc)
    return None


def refuse_code(name: str) -> SheetConfigError:
    """
    Return the error for a sheet whose declaration holds code while ``CFP_DATA_EXPRESSIONS`` is off.
    """
    return unusable(
        name,
        "its path template or its sort holds code, and CFP_DATA_EXPRESSIONS is off",
    )


def unusable(name: str, why: object) -> SheetConfigError:
    """
    Return the error that says why the sheet *name* cannot be used.
    """
    return SheetConfigError(f"The sheet {name!r} cannot be used: {why}")


def outdated(config: Mapping[str, Any]) -> list[str]:
    """
    Return the keys of a ``[gitsheet]`` table that gitsheets 1.0 ignores, such as ``fields.age.type``.
    """
    fields = config.get("fields", {})
    return [
        f"fields.{name}.{key}"
        for name, rules in fields.items()
        if isinstance(rules, dict)
        for key in _BEFORE_1_0
        if key in rules
    ]
