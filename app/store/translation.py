"""
Errors of gitsheets, git's locks and the disk as the store's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import gitsheets

from ferry.app.errors import BusyError, DiskFullError, InvalidPathError, InvalidRecordError, NotSignedError
from ferry.app.sheets.declarations import unusable
from ferry.worker.errors import RepositoryError, SigningError
from ferry.worker.files.room import NO_ROOM
from ferry.worker.git.refs import RefError, RefLockedError, RefMovedError
from ferry.worker.git.signing import HINT
from ferry.worker.observe.logs import log


@contextlib.contextmanager
def translated(sheet_name: str = "") -> Iterator[None]:
    """
    Turn what gitsheets, git's locks and the disk raise in the block into the store's errors.

    Args:
        sheet_name: The sheet that the block works on, for the message.
    """
    try:
        yield
    except gitsheets.ValidationError as exc:
        errors = [{"field": _field(issue), "message": issue["message"]} for issue in exc.issues or ()]
        raise InvalidRecordError(
            f"The record breaks the schema of the sheet {sheet_name!r}.", errors
        ) from exc
    except gitsheets.PathTemplateError as exc:
        raise InvalidPathError(str(exc)) from exc
    except (gitsheets.ConfigError, gitsheets.ContractError) as exc:
        raise unusable(sheet_name, exc) from exc
    except (OverflowError, ValueError, TypeError) as exc:  # ValueError: bad Unicode, null in an array
        raise InvalidRecordError(f"TOML cannot hold the record: {exc}") from exc
    except (RefLockedError, RefMovedError) as exc:
        raise BusyError(str(exc)) from exc
    except SigningError as exc:
        log().error("signing.unavailable", error=str(exc), hint=HINT)
        raise NotSignedError(f"The commit cannot be signed: {exc}. Nothing was written.") from exc
    except (gitsheets.GitsheetsError, RefError, OSError) as exc:
        if getattr(exc, "errno", None) in NO_ROOM:
            raise DiskFullError("The data repository's disk is full; nothing was written.") from exc
        raise RepositoryError(str(exc)) from exc


def _field(issue: Mapping[str, Any]) -> str:
    named = list(map(str, issue["path"]))
    if issue.get("code") == "required":
        # The message begins with the missing property, in quotes.
        named.append(issue["message"].split('"')[1])
    return ".".join(named)
