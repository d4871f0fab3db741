"""
A blob as the body of an answer, read from the repository while it is sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ferry.app.errors import AttachmentUnreadableError
from ferry.worker.git.blobs import Blob
from ferry.worker.git.loose import MOST_BYTES


@dataclass(frozen=True, slots=True)
class Part:
    """
    The bytes of *blob* from *start* to before *end*.
    """

    blob: Blob
    start: int
    end: int

    @classmethod
    def whole(cls, blob: Blob) -> Part:
        """
        Return all of *blob*.

        Raises:
            AttachmentUnreadableError: It can only be read as a whole, and is too large for memory.
        """
        if blob.is_whole and blob.size > MOST_BYTES:
            raise AttachmentUnreadableError(
                f"The attachment has {blob.size} bytes and is packed as a delta, which is read up to "
                f"{MOST_BYTES >> 20} MiB."
            )
        return cls(blob, 0, blob.size)

    def __len__(self) -> int:
        return self.end - self.start

    def __iter__(self) -> Iterator[bytes]:
        return self.blob.pieces(self.start, self.end)
