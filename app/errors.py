"""
Errors of the store, each with a stable code and a hint.

    StoreError
    ├── SheetNotFoundError, RecordNotFoundError, CommitNotFoundError, AttachmentNotFoundError
    ├── RecordExistsError, PreconditionError      the state is not what the caller expects
    ├── InvalidPathError, InvalidRecordError      the record cannot be stored
    ├── InvalidJsonError                          the body is not a record
    ├── ImportInvalidError                        lines of an import cannot be stored
    ├── InvalidKeyError, KeyReusedError, KeysExhaustedError   the Idempotency-Key cannot be used
    ├── SheetConfigError, UnreadableRecordError, AttachmentUnreadableError   the repository itself is wrong
    ├── FencedError                               another repository is the primary
    ├── RefusedError                              a rule or a route of an extension refuses
    ├── ExtensionFailedError                      an extension's code is wrong
    └── SheetTooLargeError, BusyError, DiskFullError, NotSignedError, ExtensionTooSlowError  not now
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ferry.writes import Refused


class StoreError(Exception):
    """
    A read or write that the store refuses.

    Attributes:
        code: Stable name, part of the HTTP contract.
        hint: What the caller does next.
        retry_after_s: Seconds after which the same request may succeed; None if it will not.
    """

    code = "store-error"
    hint = ""
    retry_after_s: int | None = None


class SheetNotFoundError(StoreError):
    """
    No ``.gitsheets/NAME.toml`` declares such a sheet.
    """

    code = "sheet-not-found"
    hint = "GET /api/sheets lists the sheets."


class RecordNotFoundError(StoreError):
    """
    The sheet holds no record at that path.
    """

    code = "record-not-found"
    hint = "GET /api/sheets/{sheet}/records lists the records."


class AttachmentNotFoundError(StoreError):
    """
    The record has no attachment of that name.
    """

    code = "attachment-not-found"
    hint = "GET /api/sheets/{sheet}/records/{path}/attachments lists them."


class CommitNotFoundError(StoreError):
    """
    The branch has no such commit.
    """

    code = "commit-not-found"
    hint = "GET /api/commits lists the branch's commits; give the full hash."


class RecordExistsError(StoreError):
    """
    A record already exists at the path of a new one.
    """

    code = "record-exists"
    hint = "PUT replaces a record. To create another record, change the fields that make its path."


class PreconditionError(StoreError):
    """
    The record is not in the state that ``If-Match`` or ``If-None-Match`` names.
    """

    code = "precondition-failed"
    hint = "GET the record again, and repeat the change on its current version."


class InvalidPathError(StoreError):
    """
    A record's fields make a path that cannot be stored safely.
    """

    code = "path-invalid"
    hint = "Change the fields that the sheet's path template names."


class InvalidRecordError(StoreError):
    """
    A record breaks its sheet's schema, or has a value that TOML cannot hold.

    Attributes:
        errors: One ``{"field", "message"}`` for each fault.
    """

    code = "validation-failed"
    hint = "Correct the fields in `errors`; GET /api/sheets/{sheet} shows the schema."

    def __init__(self, detail: str, errors: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(detail)
        self.errors = list(errors)


class ImportInvalidError(StoreError):
    """
    Lines of an import cannot be stored; nothing of their commit is.

    Attributes:
        errors: One ``{"line", "code", "message"}`` for each fault, and its ``field`` if it has one.
    """

    code = "import-invalid"
    hint = "Correct the lines in `errors`, and send the file again."

    def __init__(self, errors: Sequence[Mapping[str, Any]]) -> None:
        first = errors[0]
        more = f" There are {len(errors)} faults or more." if len(errors) > 1 else ""
        super().__init__(f"Line {first['line']}: {first['message']}.{more}".replace("..", "."))
        self.errors = list(errors)


class InvalidJsonError(StoreError):
    """
    The body is not one JSON object.
    """

    code = "json-invalid"
    hint = 'Send one JSON object, such as {"slug": "jane"}.'


class InvalidKeyError(StoreError):
    """
    The ``Idempotency-Key`` is not 1 to 255 printable ASCII characters.
    """

    code = "idempotency-key-invalid"
    hint = "Send a fresh UUID for each write, and the same one when you repeat it."


class KeyReusedError(StoreError):
    """
    The ``Idempotency-Key`` was sent with another request before.
    """

    code = "idempotency-key-reused"
    hint = "Send a fresh key for each write; repeat a write with the same body."

    def __init__(self) -> None:
        super().__init__("Another request was made with this Idempotency-Key.")


class KeysExhaustedError(StoreError):
    """
    The caller has sent as many ``Idempotency-Key``s today as one caller may.
    """

    code = "idempotency-keys-exhausted"
    hint = "Send several operations in one transaction, or no key where a repeated write does no harm."

    def __init__(self, detail: str, *, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class SheetConfigError(StoreError):
    """
    A sheet's declaration cannot be used.
    """

    code = "sheet-misconfigured"
    hint = "Correct .gitsheets/NAME.toml in the data repository."


class UnreadableRecordError(StoreError):
    """
    A file of the sheet is not a valid record.
    """

    code = "record-unreadable"
    hint = "Correct the file in the data repository with git."


class AttachmentUnreadableError(StoreError):
    """
    An attachment is too large to be read as the repository has packed it.
    """

    code = "attachment-unreadable"
    hint = "An operator can repack it: git -c core.bigFileThreshold=1m repack -a -F"


class SheetTooLargeError(StoreError):
    """
    A sheet takes more memory than lists may use.
    """

    code = "sheet-too-large"
    hint = "Read its records one by one, or ask an operator to split the sheet."


class BusyError(StoreError):
    """
    Another writer held the repository for too long.
    """

    code = "repository-busy"
    hint = "Repeat the request."
    retry_after_s = 1


class DiskFullError(StoreError):
    """
    The repository's disk has no room; nothing was written.
    """

    code = "disk-full"
    hint = "Free space on the volume of the data repository, then repeat the request."


class RefusedError(StoreError):
    """
    An extension refuses the request, with its own code, status and hint.

    Attributes:
        status: HTTP status of the answer.
        errors: One ``{"field", "message"}`` for each fault.
        headers: Further headers of the answer.
    """

    code = "refused"

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.detail)
        self.code, self.hint = refused.code, refused.hint
        self.status, self.errors, self.headers = refused.status, refused.errors, refused.headers


class ExtensionFailedError(StoreError):
    """
    An extension raised an unexpected error; nothing was written.
    """

    code = "extension-failed"
    hint = "Report the X-Request-Id to the operators: the log has the cause."


class ExtensionTooSlowError(StoreError):
    """
    An extension held the write lock for too long; nothing was written.
    """

    code = "extension-too-slow"
    hint = "Repeat the request; if that does not help, report the X-Request-Id to the operators."
    retry_after_s = 1


class NotSignedError(StoreError):
    """
    CFP_DATA_SIGNING_KEY_PATH is set, and the key cannot sign; nothing was written.
    """

    code = "signing-unavailable"
    hint = "Repeat it after an operator has corrected the key of CFP_DATA_SIGNING_KEY_PATH; see ferry doctor."
    retry_after_s = 10


class FencedError(StoreError):
    """
    Another repository was made the primary; this one takes no writes.
    """

    code = "not-the-primary"
    hint = "Send the write to the primary. ferry doctor tells an operator which one that is."
