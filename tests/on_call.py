"""
Somebody on call, who has the address of the status page, the admin token, and a shell where the worker runs.

Whatever pages is solved with what the page offers: its forms, or the command that it prints.
"""

from __future__ import annotations

import random
import re
import shlex
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

from tests import nursery
from tests.pages import Browser, Page
from tests.parts import clean_environment

_TIMEOUT_S = 120.0
_STEPS = 12  # forms that are sent for one divergence; writers go on, so that what is shown changes
_NEEDED = "A person is needed"
_COMMANDS = re.compile(r"Run, on the worker's machine: (ferry reconcile --remote \S+)")
_WAY_OUT = re.compile(r"^ +(ferry reconcile .*--take .*)$", re.MULTILINE)


@dataclass(frozen=True)
class Answer:
    """
    What a server answered.
    """

    status_code: int
    text: str

    def close(self) -> None:
        """
        Do nothing: all of it is read.
        """


class Site:
    """
    A server on loopback, with the methods of Flask's test client that a ``Browser`` needs.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def get(self, address: str) -> Answer:
        return self._ask(address, None)

    def post(self, address: str, *, data: Mapping[str, str], follow_redirects: bool = True) -> Answer:
        assert follow_redirects
        return self._ask(address, urllib.parse.urlencode(data).encode())

    def _ask(self, address: str, body: bytes | None) -> Answer:
        try:
            with self._opener.open(self._url + address, body, timeout=_TIMEOUT_S) as answer:
                return Answer(answer.status, answer.read().decode())
        except urllib.error.HTTPError as exc:
            with exc:
                return Answer(exc.code, exc.read().decode())


class OnCall:
    """
    Solves the divergences of origin.

    Args:
        url: Of the API.
        token: Of operators.
        env: What the commands run with.
        chance: What decides between the ways that the page offers.
        hold: Asks the colleagues to merge nothing for the block.
        restart: Restarts the worker; None where that is no way out.

    Attributes:
        joined: How often both sides were joined with a form or a command.
        decided: How many conflicts were.
        conflicts: How many divergences had some.
        restarts: How often the worker was restarted.
        needless: What could have been joined without deciding anything, and paged all the same.
    """

    def __init__(
        self,
        url: str,
        token: str,
        env: Mapping[str, str],
        chance: random.Random,
        hold: Callable[[], AbstractContextManager[object]],
        restart: Callable[[], None] | None = None,
    ) -> None:
        self._browser = Browser(Site(url))  # type: ignore[arg-type]  # it has what a browser needs
        self._token = token
        self._env = {**clean_environment(), **env}
        self._chance = chance
        self._hold = hold
        self._restart = restart
        self._held, self._is_quiet, self._is_restarted = ExitStack(), False, False
        self.joined = self.decided = self.conflicts = self.needless = self.restarts = 0

    def attend(self) -> bool:
        """
        Look at the page, and do one thing about what it tells; returns whether a person is needed no more.
        """
        page = self._look()
        if _NEEDED not in page.text:
            self.close()
            return True
        if self._restart is not None and not self._is_restarted and self._chance.random() < 0.7:
            self._is_restarted = True  # a second one would bring nothing else
            self.restarts += 1
            self._restart()
        elif self._chance.random() < 0.25 and (command := _COMMANDS.search(page.text)):
            self._by_command(command[1])
        else:
            self._by_forms(page)
        return False

    def close(self) -> None:
        """
        Let the colleagues merge again: it is solved.
        """
        self._held.close()
        self._is_quiet = self._is_restarted = False

    def _look(self) -> Page:
        page = self._browser.open()
        if any(form.button == "Sign in" for form in page.forms):
            page = self._browser.press(page, "Sign in", token=self._token)
        return page

    def _by_forms(self, page: Page) -> None:
        page = self._browser.press(page, "Reconcile: dry run")
        is_first = True
        for _ in range(_STEPS):
            buttons = [form.button for form in page.forms]
            if "Dry run with these choices" in buttons:
                self.conflicts += is_first
                page = self._browser.press(page, "Dry run with these choices", **self._choice(page))
            elif "Reconcile now (merge)" in buttons:
                self.needless += is_first
                self._quiet()
                page = self._browser.press(page, "Reconcile now (merge)", reason="it paged")
                self.joined += "Reconciled: " in page.text
            else:
                break  # it is done, or says why not
            is_first = False

    def _quiet(self) -> None:
        """
        Have the colleagues merge nothing until no person is needed: what is shown would change all the time.
        """
        if not self._is_quiet:
            self._held.enter_context(self._hold())
            self._is_quiet = True

    def _choice(self, page: Page) -> dict[str, str]:
        """
        Take a side of every conflict that the page shows: of a whole file, or of each of its fields.
        """
        offered: dict[str, list[str]] = {}
        for tag, given in page.tags:
            if tag == "input" and given.get("type") == "radio":
                offered.setdefault(str(given["name"]), []).append(str(given["value"]))
        rest = offered.pop("rest", None)
        self.decided += len(offered)
        if rest and self._chance.random() < 0.3:
            return {"rest": self._chance.choice(rest)}
        return {name: self._chance.choice(values) for name, values in offered.items()}

    def _by_command(self, command: str) -> None:
        self._quiet()
        said = self._run(command)
        for _ in range(_STEPS):
            if not (way_out := _WAY_OUT.search(said)):
                break
            self.conflicts += "--take" not in command
            command = re.sub(r"=ours\b", lambda _: self._chance.choice(("=ours", "=theirs")), way_out[1])
            self.decided += command.count("--take")
            said = self._run(command)
        self.joined += " joined both sides" in said

    def _run(self, command: str) -> str:
        name, *arguments = shlex.split(command)
        program: list[Any] = [str(Path(sys.executable).parent / name), *arguments]
        done = nursery.run(program, env=self._env, timeout=_TIMEOUT_S)
        assert "Traceback" not in done.stderr, done.stderr
        return str(done.stdout)
