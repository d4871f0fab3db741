"""
The two commands on fresh systems: `make matrix`, as root, where debootstrap is.

Each system is a root directory that debootstrap makes, with python3, its venv, git and make, and nothing
else. An ordinary user without a privilege clones this repository's HEAD there and types `make demo`, then
`make test`. This machine's own pip settings and certificates are laid beside, so that it works where packages
come through a mirror. What came of it replaces the table in docs/reference/supported.md.

A root that is already there is used again; its user is made afresh.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs/reference/supported.md"
BEGIN, END = "<!-- make matrix: begin -->\n", "<!-- make matrix: end -->\n"
PACKAGES = ("python3", "python3-venv", "git", "make")
KEYRINGS = Path("/usr/share/keyrings")
SCRIPTS = Path("/usr/share/debootstrap/scripts")
NOT_RUN = "not run"
USER, HOME = "visitor", "/home/visitor"
STEP_TIMEOUT_S = 3600.0
PIP_SETTINGS = ("cert", "default-timeout", "index-url", "proxy", "timeout", "trusted-host")
_SUMMARY = re.compile(r"^(?:=+ )?(\d+ (?:passed|failed|skipped|error).*?) in \d", re.MULTILINE)


@dataclass(frozen=True)
class System:
    """
    A distribution's release.

    Attributes:
        suite: Its name in the distribution's archive.
        script: debootstrap's script for it, for a debootstrap that is older than the release.
    """

    name: str
    suite: str
    script: str
    components: str = "main"
    keyring: str = "debian-archive-keyring.gpg"


UBUNTU = {"script": "jammy", "components": "main,universe", "keyring": "ubuntu-archive-keyring.gpg"}
SYSTEMS = {
    "debian-12": System("Debian 12", "bookworm", "sid"),
    "debian-13": System("Debian 13", "trixie", "sid"),
    "ubuntu-24.04": System("Ubuntu 24.04", "noble", **UBUNTU),
    "ubuntu-26.04": System("Ubuntu 26.04", "resolute", **UBUNTU),
}


@dataclass(frozen=True)
class Row:
    """
    What came of a system: one row of the table.
    """

    system: str
    python: str
    git: str
    demo: str
    test: str

    def line(self) -> str:
        """
        Return the row in Markdown.
        """
        return f"| {self.system} | {self.python} | {self.git} | {self.demo} | {self.test} |\n"


def main() -> None:
    """
    Make the roots, run the commands in each, and write the table.
    """
    parser = argparse.ArgumentParser(prog="make matrix", description=__doc__)
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"default: {' '.join(SYSTEMS)}")
    parser.add_argument(
        "--roots", type=Path, default=Path("/var/tmp/ferry-roots"), help="where they are kept"
    )
    parser.add_argument(
        "--tests",
        default="",
        metavar="ARGUMENTS",
        help="PYTEST_ARGS of `make test`, for a part of the tests; the table then says so",
    )
    parser.add_argument("--demo-only", action="store_true", help="leave `make test` out")
    given = parser.parse_args()
    if unknown := set(given.systems) - set(SYSTEMS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}")
    rows = []
    for key in given.systems or SYSTEMS:
        root = given.roots / key
        bootstrap(SYSTEMS[key], root)
        rows.append(check(SYSTEMS[key], root, tests=None if given.demo_only else given.tests))
        sys.stdout.write(rows[-1].line())
        sys.stdout.flush()
    write_table(rows)
    if any("failed" in row.demo + row.test for row in rows):
        sys.exit(1)


def bootstrap(system: System, root: Path) -> None:
    """
    Make the root of a system, unless it is there.
    """
    if (root / ".ready").exists():
        return
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    keyring = KEYRINGS / system.keyring
    if not keyring.exists():
        sys.stderr.write(f"{keyring} is not here: the packages of {system.name} are not verified\n")
    # With --no-check-gpg the packages' sums are still held against the archive's list.
    verified = [f"--keyring={keyring}"] if keyring.exists() else ["--no-check-gpg"]
    script = [] if (SCRIPTS / system.suite).exists() else ["", str(SCRIPTS / system.script)]
    subprocess.run(
        [
            "debootstrap", "--variant=minbase", f"--components={system.components}",
            f"--include={','.join(PACKAGES)}", *verified, system.suite, str(root), *script,
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=STEP_TIMEOUT_S,
    )  # fmt: skip
    (root / ".ready").touch()


def check(system: System, root: Path, *, tests: str | None) -> Row:
    """
    Have a fresh user of the root clone Ferry and type the two commands.

    Args:
        tests: What is given to `make test` as PYTEST_ARGS; None: it is not typed.
    """
    with entered(root) as run:
        python = run("python3 --version").stdout.split()[-1]
        git = run("git --version").stdout.split()[-1]
        demo = _outcome(run, "make demo")
        test = NOT_RUN if tests is None else _outcome(run, f"make test PYTEST_ARGS='{tests}'")
        if tests:
            test += f", of `{tests}` alone"
    return Row(system.name, python, git, demo, test)


@contextmanager
def entered(root: Path) -> Iterator[Run]:
    """
    Make a user in *root* for the block, with a clone of HEAD; yields what runs a command as that user.
    """
    home = root / HOME.lstrip("/")
    _as_root(root, f"userdel --force --remove {USER} 2>/dev/null; useradd --create-home {USER}")
    _lay_settings(root)
    subprocess.run(
        ["git", "clone", "--quiet", "--no-hardlinks", str(REPOSITORY), str(home / "ferry")], check=True
    )
    _as_root(root, f"chown -R {USER}:{USER} {HOME}")
    try:
        yield Run(root)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _lay_settings(root: Path) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    )
    found = re.findall(r"^(?:global|site|user|:env:)\.([\w-]+)='(.*)'$", listed.stdout, re.MULTILINE)
    settings = {key.removeprefix("default-"): value for key, value in found if key in PIP_SETTINGS}
    if "cert" in settings:
        shutil.copy(settings["cert"], root / "etc/ferry-certificates.pem")
        settings["cert"] = "/etc/ferry-certificates.pem"
    lines = [f"{key} = {value}\n" for key, value in settings.items()]
    (root / "etc/pip.conf").write_text("".join(["[global]\n", *lines]))
    for name in ("etc/resolv.conf", "etc/hosts"):
        (root / name).unlink(missing_ok=True)
        shutil.copy(f"/{name}", root / name)


@dataclass(frozen=True)
class Run:
    """
    Runs a command line in a root, in the clone, as the user, in namespaces of its own.
    """

    root: Path

    def __call__(self, line: str) -> subprocess.CompletedProcess[str]:
        return _in_namespaces(
            self.root,
            f"exec setpriv --reuid={USER} --regid={USER} --clear-groups --no-new-privs "
            f"env -i HOME={HOME} USER={USER} PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 "
            f"sh -c 'cd ~/ferry && exec \"$@\"' sh {line}",
        )


def _outcome(run: Run, command: str) -> str:
    begun = time.monotonic()
    done = run(command)
    took_s = time.monotonic() - begun
    found = _SUMMARY.findall(done.stdout)
    if done.returncode == 0:
        return f"{found[-1] if found else 'ok'}, {took_s:.0f} s"
    with tempfile.NamedTemporaryFile("w", delete=False, prefix="ferry-matrix-", suffix=".log") as log:
        log.write(done.stdout + done.stderr)
    sys.stderr.write(f"{command} failed in {run.root}: see {log.name}\n")
    return f"failed ({found[-1] if found else f'status {done.returncode}'})"


def _as_root(root: Path, line: str) -> None:
    _in_namespaces(root, line).check_returncode()


def _in_namespaces(root: Path, line: str) -> subprocess.CompletedProcess[str]:
    mounts = (
        f"mount -t proc proc '{root}/proc' && mount --rbind /dev '{root}/dev' && "
        f"mount -t tmpfs -o mode=1777 tmp '{root}/tmp' && exec chroot '{root}' /bin/sh -c \"$1\""
    )
    return subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", mounts, "sh", line],
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=STEP_TIMEOUT_S,
    )


def write_table(rows: list[Row]) -> None:
    """
    Put *rows* into the page's table, each in place of its system's older one.
    """
    before, _, rest = PAGE.read_text().partition(BEGIN)
    old, _, after = rest.partition(END)
    head, lines = old.splitlines(keepends=True)[:2], old.splitlines(keepends=True)[2:]
    known = {line.split("|")[1].strip(): line for line in lines}
    for row in rows:
        # What was left out this time stands as it was found last.
        last = known.get(row.system, "").strip("|\n ").split(" | ")
        kept = replace(row, test=last[-1]) if row.test == NOT_RUN and len(last) == len(fields(Row)) else row
        known[row.system] = kept.line()
    names = [system.name for system in SYSTEMS.values()]
    PAGE.write_text(
        before + BEGIN + "".join([*head, *(known[name] for name in names if name in known)]) + END + after
    )


if __name__ == "__main__":
    main()
