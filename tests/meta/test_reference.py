"""
The reference pages list what there is: all of it, and nothing that is gone.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import click
import pytest

from ferry.app.cli.main import main
from ferry.app.errors import StoreError
from ferry.app.problems import _CODES
from ferry.worker.failures import POLICIES
from ferry.worker.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
COMMANDS = (REFERENCE / "commands.md").read_text()


@cache
def _calls() -> list[ast.Call]:
    """
    Return each call in the sources.
    """
    sources = (path for package in ("app", "worker") for path in (ROOT / package).rglob("*.py"))
    nodes = (node for path in sources for node in ast.walk(ast.parse(path.read_bytes())))
    return [node for node in nodes if isinstance(node, ast.Call)]


def _section(page: str, heading: str) -> str:
    """
    Return what stands under *heading*, without the sections below it.
    """
    found = re.search(rf"^##+ {re.escape(heading)}$\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


# --- Settings ---


def test_the_settings_are_those_that_are_read():
    documented = re.findall(r"^\| \[`(\w+)`\]", (REFERENCE / "settings.md").read_text(), re.MULTILINE)
    read = {each.metadata["variable"] for each in fields(Settings) if "variable" in each.metadata}

    assert len(documented) == len(set(documented))
    assert set(documented) == read | {"GIT_SSH_COMMAND"}  # git's own, which Ferry honours


# --- Problems ---


def _codes() -> set[str]:
    """
    Return each code that an answer may carry.
    """
    raised = {
        node.args[1].value
        for node in _calls()
        if isinstance(node.func, ast.Name) and node.func.id == "Problem"
        if isinstance(node.args[1], ast.Constant)
    }
    refused = {each.code for each in StoreError.__subclasses__()}
    return raised | refused | set(_CODES.values()) | {"request-refused"}


def test_the_problem_codes_are_those_that_are_answered():
    table = _section((REFERENCE / "http.md").read_text(), "Problems")
    documented = re.findall(r"^\| \d(?:\d\d|xx) \| `([\w-]+)` \|", table, re.MULTILINE)

    assert len(documented) == len(set(documented))
    assert set(documented) == _codes()
    assert sorted(_codes()) == json.loads((ROOT / "app/api/openapi.json").read_text())["codes"]


# --- Endpoints ---


def test_the_endpoints_are_those_that_there_are(client):
    there = {
        (method, re.sub(r"<[^>]+>", "{}", rule.rule))
        for rule in client().application.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if not re.match(r"/docs/|/status/assets/|/browse/assets/", rule.rule)  # what those pages are made of
    }
    page = (REFERENCE / "http.md").read_text().replace("…/att", "/api/sheets/{sheet}/records/{path}/att")
    documented = {
        (method, re.sub(r"{\w+}", "{}", path))
        for methods, path in re.findall(r"`((?:[A-Z]+, )*[A-Z]+) (/[\w/{}.-]*)`", page)
        for method in methods.split(", ")
    }

    assert documented == there


# --- Reasons and log events ---


def test_the_reasons_are_those_that_failures_have():
    section = _section((REFERENCE / "logs.md").read_text(), "Reasons")
    documented = re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)

    assert set(documented) == set(POLICIES)


def test_the_log_events_are_those_that_are_written():
    written = {
        node.args[0].value
        for node in _calls()
        if isinstance(node.func, ast.Attribute)
        and node.func.attr in ("debug", "info", "warning", "error", "critical", "exception")
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and re.fullmatch(r"[a-z]+(\.[a-z_]+)+", str(node.args[0].value))
    }
    page = (REFERENCE / "logs.md").read_text()
    documented = set(re.findall(r"^\| `([a-z]+(?:\.[a-z_]+)+)` \|", page, re.MULTILINE))

    assert documented == written


# --- Commands ---


def _commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for part in command.list_commands(context):
            yield from _commands(command.get_command(context, part), f"{name} {part}")
    else:
        yield name, command


ALL = dict(_commands(main, "ferry"))


def _documented() -> dict[str, str]:
    """
    Return each command that has a heading, with what stands below it.
    """
    parts = re.split(r"^##+ (`ferry .*)$\n", COMMANDS.partition("\n## `gunicorn")[0], flags=re.MULTILINE)
    found: dict[str, str] = {}
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        first, *others = re.findall(r"`([^`]+)`", heading)
        words = [word for word in first.split() if re.fullmatch(r"[a-z]+(?:-[a-z]+)*", word)]
        for name in [" ".join(words), *(" ".join([*words[:-1], other]) for other in others)]:
            found[name] = found.get(name, "") + heading + text
    return found


def test_the_commands_are_those_that_there_are():
    assert set(_documented()) == set(ALL)


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_commands_options_are_documented(name):
    there = {
        option
        for parameter in ALL[name].params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
        if option.startswith("--")
    }
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", _documented()[name]))

    assert there <= mentioned
    # What another command or program understands is shown by an example of it.
    assert mentioned - there <= {option for each in ALL.values() for p in each.params for option in p.opts}


def test_a_command_on_any_page_is_one_that_there_is():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    groups = {name.split()[1] for name in ALL if len(name.split()) > 2}
    wrong = []
    for page in pages:
        shown = r"(?:`|^ *\$ |^ {4})ferry ([a-z]+(?: [a-z]+(?:-[a-z]+)*)?)\b"
        for words in re.findall(shown, page.read_text(), re.MULTILINE):
            first, *second = words.split()
            if first in groups and second:
                known = f"ferry {words}" in ALL
            else:
                known = first in groups or f"ferry {first}" in ALL
            if not known:
                wrong.append(f"{page.relative_to(ROOT)}: ferry {words}")

    assert wrong == []
