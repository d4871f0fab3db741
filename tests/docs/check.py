"""
Runs the commands of the documentation, as a reader would type them: ``make docs-check``.

A page says by comments, which no reader sees, what is to be run. Before a code block:

    <!-- check -->            run it; each command must end with status 0
    <!-- check status 1 -->   its last command must end with that status
    <!-- check until -->      repeat it for up to 30 s, until it succeeds and says what the page says;
                              `until 1`: until it ends with that status
    <!-- check dev -->        it is `ferry dev`: start it on free ports and go on once it is ready

and by themselves:

    <!-- check sample -->     make /srv/ferry/data.git and its remote, and start `ferry dev` over it
    <!-- check sample ssh --> with the remote behind a real sshd, the key /srv/ferry/keys/id_ed25519, and
                              what the host lets in in $AUTHORIZED_KEYS
    <!-- check restart -->    end `ferry dev`, and start it again with the settings that were exported since
    <!-- check stop -->       end it
    <!-- check run            run what stands here until the end of the comment
    ...
    -->

Before a block that cannot be run here, and for people who read the page's source:

    <!-- unchecked: WHY -->

A block ``sh`` or ``python`` is one script. In a block ``console`` the lines after ``$`` are commands, and the
others must be among what they say, in that order. Hashes and numbers may be others there, and ``…`` stands
for anything. All blocks of a page share one directory and their variables. Places are moved into a temporary
directory: ``/srv``, ``/tmp``, the home directory, and ``git@HOST.example.org:PATH``, a bare repository there.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import click

from ferry.app.dev.stack import free_port, make_sample
from tests import ssh_server
from tests.needs import lacking

DOCS = Path(__file__).resolve().parents[2] / "docs"
_STEP = re.compile(
    r"^[ ]*<!-- check ?(?P<verb>[a-z]*) ?(?P<argument>\w*)(?:\n(?P<script>.*?))? ?-->\n"
    r"(?:\n*[ ]*```(?P<language>sh|console|python)\n(?P<block>.*?)^[ ]*```$)?",
    re.MULTILINE | re.DOTALL,
)
_TIMEOUT_S = 150  # a busy machine takes its time
_UNTIL_S = 30


class Wrong(Exception):
    """
    What a page says does not happen.
    """


class Lacking(Exception):
    """
    This machine has not what a page needs.
    """


def pages() -> list[Path]:
    """
    Return the pages that have something to run.
    """
    return sorted(path for path in DOCS.rglob("*.md") if "<!-- check" in path.read_text())


@dataclass
class Reader:
    """
    Somebody with one terminal for commands and one for ``ferry dev``.
    """

    home: Path
    dev: subprocess.Popen[bytes] | None = None
    port: int = field(default_factory=free_port)
    flower_port: int = field(default_factory=free_port)
    resources: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self):
        for name in ("home", "srv/ferry", "tmp"):
            (self.home / name).mkdir(parents=True)
        # As curl does where it writes to a terminal.
        (self.home / "home/.curlrc").write_text("silent\nshow-error\n")
        kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TERM") if name in os.environ}
        self.env = {
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.home / "home"),
            "TMPDIR": str(self.home / "tmp"),
            "GIT_CONFIG_NOSYSTEM": "1",
            # A reader has neither what is installed for tests alone nor the plugins of their pytest.
            "PYTHONPATH": str(DOCS.parent / "tests/lean"),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        self.cwd = str(self.home / "home")
        self.environment_file = ""

    # --- Places ---

    def _here(self, text: str) -> str:
        def moved(place: re.Match[str]) -> str:
            match place[0]:
                case "127.0.0.1:8000":
                    return f"127.0.0.1:{self.port}"
                case "127.0.0.1:5555":
                    return f"127.0.0.1:{self.flower_port}"
                case "/srv/" | "/tmp/":
                    return f"{self.home}{place[0]}"
                case _:
                    return f"{self.home}/{place['host']}/" if place["host"] else self.environment_file

        return re.sub(
            r"127\.0\.0\.1:(?:8000|5555)\b|/tmp/ferry-dev-\w+/environment"
            r"|git@(?P<host>\w+\.example\.org):|(?<![\w/])/(?:srv|tmp)/",
            moved,
            text,
        )

    def _there(self, text: str) -> str:
        text = text.replace(f"127.0.0.1:{self.port}", "127.0.0.1:8000")
        text = text.replace(f"127.0.0.1:{self.flower_port}", "127.0.0.1:5555")
        text = re.sub(rf"{re.escape(str(self.home))}/(\w+\.example\.org)/", r"git@\1:", text)
        return text.replace(f"{self.home}/home", "/home/sam").replace(str(self.home), "")

    # --- What a page asks for ---

    def run(self, script: str) -> tuple[int, str]:
        """
        Run *script*; its directory and its exported variables are those of the next one.
        """
        state = self.home / "state"
        wrapped = f"set -aeo pipefail\ntrap 'pwd > {state}; env -0 >> {state}' EXIT\n{self._here(script)}\n"
        done = subprocess.run(
            ["bash", "-c", wrapped],
            cwd=self.cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT_S,
        )
        directory, _, variables = state.read_text().partition("\n")
        pairs = (pair.partition("=") for pair in variables.split("\0") if pair)
        self.cwd, self.env = directory, {name: value for name, _, value in pairs}
        return done.returncode, self._there(done.stdout)

    def start(self, command: str) -> None:
        """
        Run ``ferry dev`` until it is ready.
        """
        words = shlex.split(self._here(command))
        words += ["--port", str(self.port), "--flower-port", str(self.flower_port)]
        log = self.home / "dev.log"
        with log.open("wb") as output:
            self.dev = subprocess.Popen(
                words,
                cwd=self.cwd,
                # A commit beside ours that a page makes is not to be taken over first, by chance.
                env=self.env | {"CFP_DATA_FOLLOW_INTERVAL": "3600"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + _TIMEOUT_S
        while not re.search(r"^Ferry is ready: ", log.read_text(), re.MULTILINE):
            if self.dev.poll() is not None or time.monotonic() > deadline:
                raise Wrong(f"ferry dev did not come up:\n{log.read_text()}")
            time.sleep(0.1)
        found = re.search(r": \. (\S+/environment)$", log.read_text(), re.MULTILINE)
        self.environment_file = found[1] if found else ""

    def stop(self) -> None:
        """
        Press Ctrl-C in the terminal of ``ferry dev``.
        """
        if self.dev is not None and self.dev.poll() is None:
            self.dev.send_signal(signal.SIGINT)
            self.dev.wait(_TIMEOUT_S)
        self.env.pop("CFP_REDIS_URL", None)  # the embedded one has gone with it

    def sample(self, over: str) -> None:
        """
        Make what most how-tos begin with: a repository in production, with a remote.
        """
        data, remote = make_sample(self.home / "srv/ferry")
        there = self.home / "git.example.org/town/data.git"
        there.parent.mkdir(parents=True)
        remote.rename(there)
        self.env |= {"CFP_DATA_REPO_PATH": str(data), "CFP_DATA_REMOTE": str(there)}
        if over == "ssh":
            self._let_in_by_ssh(there)
        self.restart()

    def _let_in_by_ssh(self, bare: Path) -> None:
        if ssh_server.IS_MISSING:
            raise Lacking(ssh_server.REASON)
        host = self.resources.enter_context(ssh_server.ssh_server(self.home))
        keys = self.home / "srv/ferry/keys"
        keys.mkdir()
        host.key.rename(keys / "id_ed25519")
        host.key.with_suffix(".pub").rename(keys / "id_ed25519.pub")
        self.env |= {
            "CFP_DATA_REMOTE": f"ssh://{getpass.getuser()}@127.0.0.1:{host.port}{bare}",
            "CFP_SSH_KEY_PATH": str(keys / "id_ed25519"),
            "CFP_SSH_KNOWN_HOSTS": str(host.known_hosts),
            "AUTHORIZED_KEYS": str(host.directory / "authorized_keys"),
        }

    def restart(self) -> None:
        """
        Start ``ferry dev`` anew, as a deployment would be, and take its settings over.
        """
        self.stop()
        self.start("ferry dev /srv/ferry/data.git")
        self._expect(". /tmp/ferry-dev-xyz/environment", [], 0)

    # --- Pages ---

    def follow(self, page: Path) -> int:
        """
        Do what *page* says; return how many commands that were.

        Raises:
            Wrong: Something else happens than the page says.
        """
        commands = 0
        if "curl " in page.read_text() and (reason := lacking("curl")):
            raise Lacking(reason)
        try:
            for step in _STEP.finditer(page.read_text()):
                line = page.read_text().count("\n", 0, step.start()) + 1
                try:
                    commands += self._do(step)
                except Wrong as exc:
                    raise Wrong(f"{os.path.relpath(page, DOCS.parent)}:{line}: {exc}") from None
        finally:
            self.stop()
            self.resources.close()
        return commands

    def _do(self, step: re.Match[str]) -> int:
        verb = step["verb"]
        if verb == "sample":
            self.sample(step["argument"])
            return 0
        if verb in ("restart", "stop"):
            getattr(self, verb)()
            return 0
        if verb == "run":
            self._expect(step["script"], [], 0)
            return 0
        blocks = _commands(step["language"], step["block"])
        for number, (command, said) in enumerate(blocks, start=1):
            if verb == "dev":
                self.start(command)
                _compare(said, self._there((self.home / "dev.log").read_text()), command)
                continue
            status = int(step["argument"] or 0) if number == len(blocks) else 0
            does = self._await if verb == "until" else self._expect
            does(command, said, status)
        return len(blocks)

    def _expect(self, command: str, said: list[str], status: int) -> None:
        ended, output = self.run(command)
        if ended != status:
            raise Wrong(f"status {ended}, not {status}: {command}\n{output}")
        _compare(said, output, command)

    def _await(self, command: str, said: list[str], status: int) -> None:
        deadline = time.monotonic() + _UNTIL_S
        while True:
            try:
                return self._expect(command, said, status)
            except Wrong:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)


def _commands(language: str | None, block: str | None) -> list[tuple[str, list[str]]]:
    """
    Return each command of a block with the lines that it is to say.
    """
    if block is None:
        raise Wrong("no block of `sh`, `console` or `python` follows")
    indent = len(block) - len(block.lstrip(" "))
    lines = [line[indent:] for line in block.splitlines()]
    if language == "sh":
        return [("\n".join(lines), [])]
    if language == "python":
        return [("\n".join(["python - <<'END'", *lines, "END"]), [])]
    found: list[tuple[str, list[str]]] = []
    goes_on = False
    for line in lines:
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif goes_on:
            found[-1] = (f"{found[-1][0]}\n{line}", [])
        else:
            found[-1][1].append(line)
        goes_on = line.endswith("\\") and (line.startswith("$ ") or goes_on)
    return found


def _compare(said: list[str], output: str, command: str) -> None:
    """
    Look for each line of *said* in *output*, one after the other.
    """
    rest = iter(output.splitlines())
    for line in said:
        pattern = re.compile(_pattern(line))
        if line.strip() and not any(pattern.fullmatch(each.strip()) for each in rest):
            raise Wrong(f"does not say {line.strip()!r}: {command}\n{output}")


def _pattern(line: str) -> str:
    """
    Return what *line* looks like on any machine, on any day.
    """

    def kind(token: re.Match[str]) -> str:
        if token["any"]:
            return ".*"
        if token["hash"]:
            return "[0-9a-f]{7,40}"
        return r"\d+(\.\d+)?" if token["number"] else r"\s+" if token["blank"] else re.escape(token[0])

    tokens = (
        r"(?P<any>…|(?<=/ferry-dev-)\w+)|(?P<hash>\b(?=[a-f]*\d)[0-9a-f]{7,40}\b)"
        r"|(?P<number>\d+(\.\d+)?)|(?P<blank>\s+)|."
    )
    return re.sub(tokens, kind, line.strip())


@click.command()
@click.argument("names", nargs=-1, type=click.Path(exists=True, path_type=Path))
def main(names: tuple[Path, ...]) -> None:
    """
    Run the commands of the pages NAMES; of all pages, without any.
    """
    failures = 0
    for page in [name.resolve() for name in names] or pages():
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="ferry-docs-", ignore_cleanup_errors=True) as home:
            try:
                commands = Reader(Path(home).resolve()).follow(page)
            except Wrong as exc:
                failures += 1
                click.echo(f"FAILED {exc}")
                continue
            except Lacking as exc:
                click.echo(f"left   {page.relative_to(DOCS.parent)}: {exc}")
                continue
        click.echo(f"ok     {page.relative_to(DOCS.parent)}: {commands} in {time.monotonic() - begun:.0f} s")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
