"""
``examples/town``: a small application on Ferry, by the public package alone.
"""

from __future__ import annotations

import ast
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import need
from tests.parts import clean_environment, wait_until

ROOT = Path(__file__).resolve().parents[2]
TOWN = ROOT / "examples" / "town"
HOW_TO = (ROOT / "docs/how-to/write-an-extension.md").read_text()
PUBLIC = {"ferry", "ferry.testing"}
EXPECTED = ['{"name":"jane"}', '"path":"jane"', '"not-yours"', '"guests":["jane"]']
OTHERS = {"flask", "itsdangerous", "pytest", "werkzeug"}


def _imported() -> set[str]:
    nodes = [node for file in TOWN.glob("*.py") for node in ast.walk(ast.parse(file.read_bytes()))]
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return whole | {
        f"{'.' * node.level}{node.module or ''}" for node in nodes if isinstance(node, ast.ImportFrom)
    }


def test_it_imports_nothing_of_ferry_but_the_public_package():
    own = {file.stem for file in TOWN.glob("*.py")}
    names = {name for name in _imported() if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in names if name.startswith("ferry")} <= PUBLIC
    assert {name.partition(".")[0] for name in names} <= {"ferry"} | OTHERS | own
    plugins = re.findall(r"pytest_plugins = \[(.*)\]", (TOWN / "conftest.py").read_text())
    assert plugins == ['"ferry.testing"']


@pytest.mark.parametrize("name", ["app.py", "worker.py", "conftest.py", "test_town.py"])
def test_the_how_to_shows_its_modules_as_they_are(name):
    [shown] = re.findall(rf"^cat > {re.escape(name)} <<'END'\n(.*?)^END$", HOW_TO, re.MULTILINE | re.DOTALL)
    assert shown == (TOWN / name).read_text()


def test_the_how_to_shows_its_dockerfile_as_it_is():
    text = (TOWN / "Dockerfile").read_text()
    assert f"```dockerfile\n{text}```" in HOW_TO
    assert len(text.splitlines()) == 4


def test_its_own_tests_pass():
    """
    As they are run there, with modules that have the names of Ferry's folders.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"],
        cwd=TOWN,
        # With pytest alone, as the extra `testing` installs it.
        env={**clean_environment(), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_it_starts_does_what_it_shows_and_ends_cleanly(tmp_path):
    """
    As ``make example``: each line that it prints works when it is typed, and the letter appears.
    """
    need("curl")
    log, errors = tmp_path / "log", tmp_path / "errors"
    with log.open("wb") as output, errors.open("wb") as complaints:
        town = subprocess.Popen(
            [sys.executable, str(TOWN / "start.py")],
            cwd=tmp_path,
            env={**clean_environment(), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=complaints,
        )
    try:
        wait_until(lambda: "Ctrl-C ends it" in log.read_text() or town.poll() is not None, timeout_s=180)
        assert town.poll() is None, log.read_text() + errors.read_text()
        said = [_type(line) for line in re.findall(r"^  (curl .*)$", log.read_text(), re.MULTILINE)]
        assert [each for each, text in zip(EXPECTED, said, strict=True) if each not in text] == [], said
        wait_until(
            lambda: "See you at 2026/01/open-council" in log.read_text(), timeout_s=120, what="the letter"
        )
        town.send_signal(signal.SIGINT)
        assert town.wait(60) == 0, errors.read_text()
    finally:
        if town.poll() is None:
            town.send_signal(signal.SIGINT)
            town.wait(60)
    assert log.read_text().count("--- A letter ---") == 1
    assert "Traceback" not in log.read_text() + errors.read_text()


def _type(line: str) -> str:
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout
