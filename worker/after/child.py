"""
The process that imports extensions and calls their functions, one hook's at a time.

    python -P -m ferry.worker.after.child PARENT list
    python -P -m ferry.worker.after.child PARENT call town commit
    python -P -m ferry.worker.after.child PARENT again town commit 3f9a1c…

It says what it begins and what is done. ``calling`` starts it and ends it at its limit.
"""

from __future__ import annotations

import math
import os
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from ferry.commits import Failed
from ferry.extension import Extension
from ferry.worker.after.hooks import Hook, hooks_of
from ferry.worker.after.positions import Positions
from ferry.worker.after.work import Item, Work
from ferry.worker.errors import WorkerError
from ferry.worker.files.places import remotes_directory
from ferry.worker.git.credentials import Credentials
from ferry.worker.git.repository import Repository
from ferry.worker.hosting.inside import Say, limited, restart_limit, serve, told
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.settings import Settings

TURN_S = 10.0  # then the message is sent again: a worker that stops waits for its tasks


def main(settings: Settings, extensions: tuple[Extension, ...], arguments: Sequence[str], say: Say) -> int:
    """
    Do what *arguments* say; returns the exit status.
    """
    if [*arguments] == ["list"]:
        say(
            hooks=[[hook.extension, hook.event] for hook in hooks_of(extensions)],
            rules=any(extension.hooks.rules for extension in extensions),
        )
        return 0
    verb, name, event, *what = arguments
    hook = Hook(name, event)  # type: ignore[arg-type]
    functions = [
        function
        for extension in extensions
        if extension.name == name
        for function in extension.hooks.after.get(hook.event, ())
    ]
    if not functions:
        say(failed=f"no function is registered for {hook}")
        return 1
    caller = Caller(settings, hook, functions, say)
    return caller.again(*what) if verb == "again" else caller.call()


class Caller:
    """
    Calls the functions of one hook.

    Args:
        settings: The data repository, and how long one function may take.
        hook: The hook.
        functions: Its functions, in order.
        say: Called with what the parent is to know.
    """

    def __init__(
        self,
        settings: Settings,
        hook: Hook,
        functions: Sequence[Callable[[Any], None]],
        say: Say,
    ) -> None:
        path = settings.data_repo_path
        repository = Repository.of(settings, Credentials.from_settings(settings, os.environ))
        self._hook = hook
        self._functions = functions
        self._limit_s = settings.api_hook_timeout_s
        self._say = say
        self._work = Work(repository, Ledger(remotes_directory(path)))
        self._positions = Positions(path)
        self._process = os.getpid()

    def call(self) -> int:
        """
        Call the functions for what waits, until nothing does or the turn is over; returns the exit status.
        """
        turn_ends = time.monotonic() + TURN_S
        try:
            for item in self._work.items(self._hook.event, self._positions.read(self._hook) or ()):
                if time.monotonic() > turn_ends:
                    break
                if not self._is_called(item):
                    return 1
                self._positions.write(self._hook, item[2])
                self._say(done=item[0])
        except (WorkerError, OSError) as exc:
            self._say(failed=str(exc))
            return 1
        self._say(ended=True)
        return 0

    def again(self, what: str) -> int:
        """
        Call the functions once more, wherever the position is; returns the exit status.

        Args:
            what: As ``Work.past`` has it.
        """
        try:
            item = self._work.past(self._hook.event, what)
        except WorkerError as exc:
            self._say(failed=str(exc))
            return 1
        if not self._is_called(item):
            return 1
        self._say(done=item[0])
        self._say(ended=True)
        return 0

    def _is_called(self, item: Item) -> bool:
        name, given, _ = item
        self._say(begun=name)
        with limited(self._limit_s):
            try:
                for function in self._functions:
                    restart_limit(self._limit_s)
                    function(given)
            except BaseException as exc:  # noqa: BLE001 - SystemExit and KeyboardInterrupt are failures of it, too
                if os.getpid() == self._process:
                    traceback.print_exc()
                    self._say(failed=told(exc), **_wishes(exc))
                return False
        return True


def _wishes(error: BaseException) -> dict[str, Any]:
    """
    Return when a function that has failed is to be called again, as far as it says so.
    """
    if not isinstance(error, Failed):
        return {}
    wait_s = error.wait_s if isinstance(error.wait_s, (int, float)) and math.isfinite(error.wait_s) else 0.0
    return {"wait_s": max(0.0, wait_s), "stops": bool(error.stops)}


if __name__ == "__main__":
    serve(main)
