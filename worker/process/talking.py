"""
Talking to another program through its standard input and output, with a deadline for each step.

``running`` runs a program that needs no answer in between.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import subprocess  # noqa: TID251 - as in ``running``
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from ferry.worker.process.running import KEPT_BYTES, Said, end, listen

_PIECE_BYTES = 64 * 1024


class Talk:
    """
    A program that is being talked to, in a session of its own.

    Attributes:
        group: Its process group.
    """

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], directory: Path, ahead_bytes: int = 0
    ) -> None:
        """
        Start the program.

        Args:
            ahead_bytes: How much it may print before that is read, if the system permits it; default: as much
                as a pipe holds.

        Raises:
            OSError: It cannot be started.
        """
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, env=env, cwd=directory
        )
        self.group = self._process.pid
        self._to, self._from, self._errors = (
            self._pipe(each) for each in (self._process.stdin, self._process.stdout, self._process.stderr)
        )
        self._complained = Said(KEPT_BYTES)
        if ahead_bytes:
            with contextlib.suppress(OSError):  # this user has too much in pipes
                fcntl.fcntl(self._from, fcntl.F_SETPIPE_SZ, ahead_bytes)
        self._unsent, self._received = bytearray(), bytearray()
        self._is_last = False

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None  # noqa: S101 - narrows a type
        os.set_blocking(pipe.fileno(), False)
        return pipe

    def send(self, content: bytes, *, last: bool = False) -> None:
        """
        Send *content* to the program; what it does not take at once, during the next calls that read. After
        the *last*, close its input.
        """
        self._unsent += content
        self._is_last = last
        self._write()

    def read(self, size: int, deadline: float) -> bytes:
        """
        Return the next *size* bytes that the program prints.

        Args:
            deadline: By ``time.monotonic()``.

        Raises:
            TimeoutError: It did not print them in time.
            EOFError: It ended, or closed its output, before.
        """
        while len(self._received) < size:
            self._exchange(deadline)
        found = bytes(self._received[:size])
        del self._received[:size]
        return found

    def piece(self, deadline: float) -> bytes:
        """
        Return what the program has printed, at least a byte; raises as ``read`` does.
        """
        while not self._received:
            self._exchange(deadline)
        found = bytes(self._received)
        self._received.clear()
        return found

    def skip(self, size: int, deadline: float) -> None:
        """
        Leave out the next *size* bytes that the program prints; raises as ``read`` does.
        """
        while size > 0:
            size -= len(self.read(min(size, _PIECE_BYTES), deadline))

    def _exchange(self, deadline: float) -> None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        with selectors.PollSelector() as selector:
            selector.register(self._from, selectors.EVENT_READ)
            if not self._errors.closed:
                selector.register(self._errors, selectors.EVENT_READ)
            if self._unsent:
                selector.register(self._to, selectors.EVENT_WRITE)
            for key, _ in selector.select(left_s):
                if key.fileobj is self._to:
                    self._write()
                elif piece := os.read(key.fd, _PIECE_BYTES):
                    self._keep(key.fileobj, piece)
                elif key.fileobj is self._from:
                    raise EOFError
                else:
                    self._errors.close()

    def _keep(self, pipe: object, piece: bytes) -> None:
        if pipe is self._from:
            self._received += piece
        else:
            self._complained.add(piece)

    def _write(self) -> None:
        try:
            del self._unsent[: os.write(self._to.fileno(), self._unsent)]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._unsent.clear()  # it has ended, as its output shows
        if self._is_last and not self._unsent:
            self._close_input()

    def _close_input(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._to.close()

    def is_running(self) -> bool:
        """
        Whether the program still runs.
        """
        return self._process.poll() is None

    def finish(self, deadline: float) -> tuple[int | None, str]:
        """
        Close its input, and wait for its end; end it at *deadline*.

        Returns:
            Its exit status, None if it was ended; and what it complained of, redacted.
        """
        if self._unsent:
            self._write()
        self._close_input()
        printed = Said(KEPT_BYTES)
        said = {self._from: printed}
        if not self._errors.closed:
            said[self._errors] = self._complained
        try:
            has_ended = listen(self._process, said, deadline)
            if not has_ended:
                end(self._process, said)
        finally:
            self._from.close()
            self._errors.close()
        return self._process.returncode if has_ended else None, self._complained.text()

    def let_go(self) -> None:
        """
        Close this process's copies of the pipes, after a fork: the program is the parent's.
        """
        for pipe in (self._to, self._from, self._errors):
            pipe.close()
        self._process.returncode = 0  # there is no status to wait for
