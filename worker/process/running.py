"""
Running another program, and ending it with all its children.

The program gets its own session, and the whole session is ended at the timeout: killing ``git push`` alone
leaves ``git remote-https`` or ssh behind. Only the beginning and the end of its output are kept, because a
hook on the remote may print gigabytes. All output is redacted before it is returned.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess  # noqa: TID251 - here, and nowhere else in this package
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from ferry.worker.observe.redaction import redact
from ferry.worker.process import groups

KEPT_BYTES = 256 * 1024  # bytes kept of the beginning, and of the end
MOST_BYTES = 128 << 20  # bytes of output that is kept whole
_PIECE_BYTES = 64 * 1024
ENDING_S = 3 * groups.TERM_GRACE_S  # the most seconds that this takes
# The shell waits for a line and then becomes the command. If the parent dies before it writes the line, the
# shell ends.
_GATE = ("/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "sh")
_NOT_STARTED = (126, 127)  # the shell's exit status for a program that is missing or cannot be run
_LINE_BREAK = re.compile(rb"[\r\n]")
_KEY_ENDS = re.compile(rb"-----END [A-Z ]{0,40}PRIVATE KEY-----")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """
    The outcome of a command.

    Attributes:
        exit_status: The command's exit status; None if Ferry ended it at its timeout.
        stdout: Redacted standard output.
        stderr: Redacted standard error; only the beginning and the end if it is long.
        duration_s: How long it ran, in seconds.
    """

    exit_status: int | None
    stdout: str
    stderr: str
    duration_s: float


def run(
    command: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str],
    directory: Path,
    stdin: BinaryIO | None = None,
    stdout: BinaryIO | None = None,
    whole: bool = False,
    started: Callable[[int], object] = lambda group: None,
    noted: Callable[[int], object] | None = None,
) -> Finished:
    """
    Run *command* to its end, or end it and all its children at its timeout.

    Args:
        env: Its complete environment.
        directory: Its working directory.
        stdin: Its standard input; default: empty.
        stdout: File for its unredacted standard output; default: the output is returned.
        whole: Whether to keep all of its standard output; the command is ended if that is more than
            ``MOST_BYTES``.
        started: Called with the process group as soon as it exists.
        noted: Called with the process group before *command* starts in it. If this process is killed before
            this call returns, *command* never starts.

    Raises:
        OSError: It cannot be started, or it printed too much.
    """
    begun = time.monotonic()
    process = _start(command, stdin, stdout, is_gated=noted is not None, cwd=directory, env=env)
    printed, complained = Said(None if whole else KEPT_BYTES), Said(KEPT_BYTES)
    pipes = (process.stdout, printed), (process.stderr, complained)
    said = {pipe: kept for pipe, kept in pipes if pipe is not None}
    try:
        if noted is not None:
            noted(process.pid)
            _open_gate(process)
        started(process.pid)
        exit_status = process.returncode if listen(process, said, begun + timeout_s) else None
        if printed.is_too_long:
            raise OSError(f"{command[0]} printed more than {MOST_BYTES} bytes")
        if exit_status is None:
            end(process, said)
    except BaseException:
        end(process, said)
        raise
    finally:
        for pipe in said:
            pipe.close()
    if noted is not None and exit_status in _NOT_STARTED:
        raise OSError(complained.text().strip())
    duration_s = time.monotonic() - begun
    return Finished(
        exit_status=exit_status, stdout=printed.text(), stderr=complained.text(), duration_s=duration_s
    )


def _start(
    command: Sequence[str], stdin: BinaryIO | None, stdout: BinaryIO | None, *, is_gated: bool, **options: Any
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*_GATE, *command] if is_gated else command,
        stdin=subprocess.PIPE if is_gated else stdin or subprocess.DEVNULL,
        stdout=stdout or subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **options,
    )


def _open_gate(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin  # noqa: S101 - narrows a type: it is a pipe
    with (
        contextlib.suppress(BrokenPipeError),
        process.stdin as gate,
    ):  # another process ended it, as its status shows
        gate.write(b"go\n")


class Said:
    """
    The output from a pipe: all of it, or its beginning and its end.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._head, self._tail = bytearray(), bytearray()
        self._is_cut = False

    def add(self, piece: bytes) -> None:
        if self._limit is None:
            if not self.is_too_long:
                self._head += piece
            return
        room = self._limit - len(self._head)
        self._head += piece[:room]
        self._tail += piece[room:]
        if len(self._tail) > 2 * self._limit:
            self._cut()

    @property
    def is_too_long(self) -> bool:
        return self._limit is None and len(self._head) > MOST_BYTES

    def text(self) -> str:
        if self._limit is not None and len(self._tail) > self._limit:
            self._cut()
        if not self._is_cut:
            return _redacted(bytes(self._head + self._tail))
        return f"{_redacted(_whole_lines(self._head))}\n[...]\n{_redacted(_after_a_key(self._tail))}"

    def _cut(self) -> None:
        assert self._limit is not None  # noqa: S101 - narrows a type; without a limit there is no tail
        del self._tail[: -self._limit]
        self._is_cut = True


def _redacted(said: bytes) -> str:
    return redact(said.decode("utf-8", "replace"))


def _whole_lines(head: bytearray) -> bytes:
    """
    Drop the line that was cut: redaction does not recognise half a password.
    """
    return bytes(head[: max(head.rfind(b"\n"), head.rfind(b"\r"), 0)])


def _after_a_key(tail: bytearray) -> bytes:
    """
    Drop the line that was cut, and the rest of a private key whose first line was cut off.
    """
    line = _LINE_BREAK.search(tail)
    begin = line.end() if line else len(tail)
    key = _KEY_ENDS.search(tail, begin)
    if key and b"-----BEGIN " not in tail[begin : key.start()]:
        begin = key.end()
    return bytes(tail[begin:])


def listen(process: subprocess.Popen[bytes], said: Mapping[IO[bytes], Said], deadline: float) -> bool:
    """
    Read until both pipes are closed and *process* has ended; returns whether that happened before *deadline*.
    """
    with selectors.PollSelector() as selector:  # needs no file descriptor, which might not be available
        for pipe, kept in said.items():
            selector.register(pipe, selectors.EVENT_READ, kept)
        while selector.get_map():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            for key, _ in selector.select(left_s):
                if piece := os.read(key.fd, _PIECE_BYTES):
                    key.data.add(piece)
                    if key.data.is_too_long:
                        return False
                else:
                    selector.unregister(key.fileobj)
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


def end(process: subprocess.Popen[bytes], said: Mapping[IO[bytes], Said]) -> None:
    """
    End *process* and every child in its session, and keep what they still print.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        groups.signal_group(process.pid, number)
        # A child that left the session may keep the pipes open for ever, so do not wait for it.
        if listen(process, said, time.monotonic() + groups.TERM_GRACE_S):
            break
    groups.signal_group(process.pid, signal.SIGKILL)  # a child that outlived git and has closed its pipes
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(groups.TERM_GRACE_S)
