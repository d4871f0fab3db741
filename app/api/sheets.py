"""
The sheets that the data repository declares.
"""

from __future__ import annotations

from flask import Blueprint
from flask.typing import ResponseReturnValue

from ferry.app.api.reading import snapshot_of

bp = Blueprint("sheets", __name__, url_prefix="/api/sheets")


@bp.get("")
def index() -> ResponseReturnValue:
    """
    List the sheets.
    """
    return {"sheets": [{"name": name} for name in snapshot_of().sheet_names()]}


@bp.get("/<sheet>")
def show(sheet: str) -> ResponseReturnValue:
    """
    Return a sheet's configuration, the schema of its records, and the contracts that it implements.
    """
    snapshot = snapshot_of()
    found = snapshot.sheet(sheet)
    config = {key: value for key, value in found.config.items() if key != "schema"}
    contracts = snapshot.contracts(found)
    return {
        "name": found.name,
        "config": config,
        "schema": found.schema,
        **({"contracts": contracts} if contracts else {}),
    }
