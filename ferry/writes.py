"""
What the functions of an extension receive and raise: callers, records, writes and refusals.

Extensions import these names from ``ferry``. Nothing here imports the rest of Ferry.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from flask import Response

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_CODE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_SCOPE = re.compile(r"(?:read|write):.+")


class Refused(Exception):
    """
    Raise it to refuse a write or a request; the client gets ``application/problem+json``.

    Args:
        detail: What is refused and why, in a sentence, for people.
        code: Stable name, for programs: lower-case words joined by ``-``.
        status: HTTP status of the answer, from 400.
        errors: One ``{"field": …, "message": …}`` for each field that is wrong.
        hint: What the client does next.
        headers: Further headers of the answer, such as ``Retry-After``.
    """

    def __init__(
        self,
        detail: str,
        *,
        code: str = "refused",
        status: int = 422,
        errors: Sequence[Mapping[str, str]] = (),
        hint: str = "Correct the request.",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        if not _CODE.fullmatch(code):
            raise ValueError(f"code must be lower-case words joined by '-', got {code!r}")
        if HTTPStatus(status) < 400:
            raise ValueError(f"status must be an error's, 400 or above, got {status}")
        self.detail, self.code, self.status, self.hint = detail, code, int(status), hint
        self.errors = [dict(error) for error in errors]
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Caller:
    """
    The sender of a request. The author of each of its commits has the same name.

    Attributes:
        name: Up to 63 letters, digits, ``.``, ``_`` and ``-``. A caller and a token with the same name are
            the same author.
        scopes: What Ferry's own endpoints let it do: ``read:SHEET`` and ``write:SHEET``, where ``*`` is every
            sheet. A caller may also read what it may write.

    Raises:
        ValueError: The name or a scope does not have this form.
    """

    name: str
    scopes: Sequence[str] = ("read:*", "write:*")

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"a caller's name has letters, digits, '.', '_' and '-', got {self.name[:80]!r}")
        if isinstance(self.scopes, str) or not all(_SCOPE.fullmatch(scope) for scope in self.scopes):
            raise ValueError(f"scopes are such as ['read:*', 'write:people'], got {self.scopes!r}")

    def may_read(self, sheet: str) -> bool:
        """
        Whether the scopes let it read *sheet*.
        """
        return not {"read:*", f"read:{sheet}"}.isdisjoint(self.scopes) or self.may_write(sheet)

    def may_write(self, sheet: str) -> bool:
        """
        Whether the scopes let it write *sheet*.
        """
        return not {"write:*", f"write:{sheet}"}.isdisjoint(self.scopes)


class Record(dict[str, Any]):
    """
    A record's fields, with the path at which the sheet stores it.

    Attributes:
        path: Its path within the sheet, without extension.
    """

    def __init__(self, path: str, fields: Mapping[str, Any]) -> None:
        super().__init__(_copied(dict(fields)))
        self.path = path


class Reader(Protocol):
    """
    The records of one commit, in a transaction with the changes staged so far.
    """

    def read(self, sheet: str, path: str) -> Record:
        """
        Return the record at *path*.

        Raises:
            Refused: 404 ``record-not-found`` or ``sheet-not-found``.
        """

    def exists(self, sheet: str, path: str) -> bool:
        """
        Whether there is a record at *path*.
        """

    def records(self, sheet: str, /, **filters: Any) -> list[Record]:
        """
        Return the readable records of *sheet* whose fields equal *filters*, sorted by path.
        """

    def declarations(self) -> dict[str, dict[str, Any]]:
        """
        Return the table ``gitsheet`` of each sheet's declaration, by the sheet's name.
        """


@dataclass(slots=True, kw_only=True, eq=False)
class Write:
    """
    One write that is about to be staged. A function under ``before_write`` receives it.

    Attributes:
        caller: The caller who makes it.
        extension: Name of the extension whose ``transact`` makes it; None for Ferry's own endpoints.
        sheet: Name of the sheet.
        path: The record's path.
        operation: ``create``, ``put``, ``patch``, ``delete``, ``attach`` or ``detach``. A put or patch that
            moves a record is two writes: a ``delete`` at its old path, then a ``create`` at its new one.
        before: The record as it is; None if it is created.
        after: The record as it will be, validated; None if it is deleted. Ferry validates a function's
            changes to it, and stores them.
        attachment: The name of the attachment that is stored or removed; None for other operations.
        is_merge: Whether a merge with a remote makes it, and no request. ``caller`` is then the operator who
            asks for the merge, or ``ferry``, and not the author of what it brings.
    """

    caller: Caller
    extension: str | None
    sheet: str
    path: str
    operation: str
    before: Record | None
    after: Record | None
    attachment: str | None = None
    is_merge: bool = False
    reader: Reader

    def set(self, **fields: Any) -> None:
        """
        Change *fields* of the record that will be stored; None removes a field.

        Raises:
            TypeError: The write does not store a record.
        """
        if self.after is None or self.attachment is not None:
            raise TypeError(f"the operation {self.operation} stores no record")
        for field, value in fields.items():
            if value is None:
                self.after.pop(field, None)
            else:
                self.after[field] = value

    def read(self, sheet: str, path: str) -> Record:
        """
        Return the record at *path* with the changes staged before this one.

        Raises:
            Refused: 404 ``record-not-found`` or ``sheet-not-found``.
        """
        return self.reader.read(sheet, path)

    def exists(self, sheet: str, path: str) -> bool:
        """
        Whether there is a record at *path* with the changes staged before this one.
        """
        return self.reader.exists(sheet, path)

    def records(self, sheet: str, /, **filters: Any) -> list[Record]:
        """
        Return the readable records of *sheet* whose fields equal *filters*, sorted by path, with the changes
        staged before this one.
        """
        return self.reader.records(sheet, **filters)

    def declarations(self) -> dict[str, dict[str, Any]]:
        """
        Return the table ``gitsheet`` of each usable sheet's declaration, by the sheet's name.
        """
        return self.reader.declarations()


class Transaction(ABC):
    """
    Several changes in one commit, made by an extension: what ``Extension.transact`` opens.

    Each method sees the changes staged so far. If it refuses, the client gets the same answer as from Ferry's
    own endpoints, and nothing is written. A change that fails ends the transaction even if the block catches
    the error, because the end of the block raises it again. The block may catch an error of ``read``.
    """

    @abstractmethod
    def read(self, sheet: str, path: str) -> Record:
        """
        Return the record at *path*.

        Raises:
            Refused: 404 ``record-not-found`` or ``sheet-not-found``.
        """

    @abstractmethod
    def exists(self, sheet: str, path: str) -> bool:
        """
        Whether there is a record at *path*.
        """

    @abstractmethod
    def records(self, sheet: str, /, **filters: Any) -> list[Record]:
        """
        Return the readable records of *sheet* whose fields equal *filters*, sorted by path.
        """

    @abstractmethod
    def create(self, sheet: str, record: Mapping[str, Any]) -> Record:
        """
        Create a record; its path follows from its fields. Returns the record as it will be stored.
        """

    @abstractmethod
    def put(self, sheet: str, path: str, record: Mapping[str, Any]) -> Record:
        """
        Replace or create the record at *path*; if the fields in its path differ, it moves.
        """

    @abstractmethod
    def upsert(self, sheet: str, record: Mapping[str, Any]) -> Record:
        """
        Store a record at the path that its fields make; it replaces one there.
        """

    @abstractmethod
    def patch(self, sheet: str, path: str, patch: Mapping[str, Any]) -> Record:
        """
        Apply a JSON merge patch (RFC 7396) to the record at *path*; None removes a field.
        """

    @abstractmethod
    def delete(self, sheet: str, path: str) -> None:
        """
        Delete the record at *path*, with its attachments.
        """

    @abstractmethod
    def attach(self, sheet: str, path: str, name: str, content: bytes) -> None:
        """
        Store *content* as an attachment of the record at *path*; it replaces one of the same name.
        """

    @abstractmethod
    def answer(self, status: int = 200) -> Response:
        """
        Return the answer to the request, after the block: ``results``, one for each change, and ``commit``
        with its push states.

        Honours ``Prefer`` and ``Idempotency-Key`` as ``POST /api/transactions`` does. ``If-Match`` is about
        the first record that the block writes.
        """


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
