"""
Writing every line of a process as JSON, including those of libraries and of the interpreter.

    python -m ferry.worker.observe.streams ferry beat

runs a command of this environment, as the image and the systemd units do. Logged lines are JSON already
(``logs``). Lines of a refused start, of a library's ``print`` and of an exception that ends the process are
not: they are wrapped in the same form when they are written. On a terminal nothing is changed.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from ferry.worker.observe import logs
from ferry.worker.observe.redaction import redact


class Lines:
    """
    A text stream that passes lines of JSON on and wraps other lines, each in one write.

    It has no ``fileno``, because Celery would write directly to that descriptor.

    Args:
        descriptor: The descriptor that the lines are written to.
        name: ``stdout`` or ``stderr``, the ``logger`` of a wrapped line.
        level: The ``level`` of a wrapped line.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int, name: str, level: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self._level = level
        self._begun = threading.local()  # a line may come in pieces, from several threads

    def write(self, text: str) -> int:
        """
        Write the lines that *text* completes.
        """
        *lines, rest = (getattr(self._begun, "text", "") + text).split("\n")
        self._begun.text = rest
        for line in lines:
            self._write_line(line.strip())
        return len(text)

    def flush(self) -> None:
        """
        Do nothing: a line is written when it is complete.
        """

    def isatty(self) -> bool:
        """
        Return that this is not a terminal.
        """
        return False

    def _write_line(self, line: str) -> None:
        if not line:
            return
        if not _is_json(line):
            fields = {"event": redact(line), "level": self._level, "logger": self._name}
            line = json.dumps({**fields, "timestamp": f"{datetime.now(UTC):%FT%T.%fZ}"})
        content = f"{line}\n".encode(self.encoding, self.errors)
        while content:
            content = content[os.write(self._descriptor, content) :]


def _is_json(line: str) -> bool:
    if not (line.startswith("{") and line.endswith("}")):
        return False
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def take() -> None:
    """
    Write every line of this process, and of its forks, as JSON.
    """
    sys.stdout = sys.__stdout__ = Lines(1, "stdout", "info")  # type: ignore[assignment, misc]
    sys.stderr = sys.__stderr__ = Lines(2, "stderr", "warning")  # type: ignore[assignment, misc]
    logs.configure()
    logging.captureWarnings(True)
    sys.excepthook = _log_exception


def _log_exception(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    logs.log().error("process.failed", exc_info=(kind, exc, trace))


def main(arguments: list[str]) -> NoReturn:
    """
    Run the command ``arguments[0]`` with the other arguments.
    """
    name, *others = arguments
    [command] = entry_points(group="console_scripts", name=name)
    if not sys.stderr.isatty():
        take()
    sys.argv = [str(Path(sys.executable).with_name(name)), *others]
    sys.exit(command.load()())


if __name__ == "__main__":
    main(sys.argv[1:])
