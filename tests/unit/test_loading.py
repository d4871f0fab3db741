"""
Which modules are extensions, and what a start says of those that are not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ferry import Caller, Extension, Refused
from ferry.loading import ExtensionError, load
from ferry.worker import doctor
from ferry.worker.bootstrap import load_extensions
from ferry.worker.errors import SettingsError
from ferry.worker.settings import Settings
from tests.parts import clean_environment

GOOD = "import ferry\n{0} = ferry.Extension('{0}')\n{0}.before_write(print)\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """
    Write a module into the current directory.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    written = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


def _settings(**env):
    return Settings.from_env({"CFP_DATA_REPO_PATH": "/data.git", "CFP_REDIS_URL": "redis://r", **env})


def test_modules_are_imported_in_their_order(module):
    names = [module(name, GOOD.format(name)) for name in ("loaded_b", "loaded_a")]

    assert [extension.name for extension in load(names)] == names


def test_a_module_may_list_extensions_and_its_settings_may_name_none(module):
    made = "import ferry\nextensions = [ferry.Extension(name) for name in 'ab']\n"
    module("listed", f"{made}for each in extensions:\n    each.after_commit(print)\n")
    module("listed_none", "extensions = []\n")

    assert [extension.name for extension in load(["listed", "listed_none"])] == ["a", "b"]


def test_the_directories_of_pythonpath_come_before_the_current_one(module, tmp_path, monkeypatch):
    """
    A command in another directory means the module that the running stack has.
    """
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "loaded_app.py").write_text(GOOD.format("theirs"))
    module("loaded_app", GOOD.format("ours"))
    monkeypatch.setenv("PYTHONPATH", str(theirs))
    monkeypatch.setattr(sys, "path", [str(theirs), *sys.path])

    assert [extension.name for extension in load(["loaded_app"])] == ["theirs"]


def test_a_rule_for_a_sheet_that_is_not_declared_is_found(module, deployment):
    module(
        "slip", "import ferry\ntown = ferry.Extension('town')\ntown.before_write('people', 'peeple')(print)\n"
    )
    found = doctor._extensions(
        SimpleNamespace(settings=_settings(CFP_API_EXTENSIONS="slip"), repository=deployment.repository)
    )

    assert [(each.state, each.detail) for each in found] == [
        ("ok", "loaded in this order: town (1 rule)"),
        ("warning", "town has a rule for peeple, and no such sheet is declared"),
    ]


def test_modules_may_share_an_extension(module):
    module("shared_base", "import ferry\ntown = ferry.Extension('town')\n")
    names = [
        module(name, "from shared_base import town\n@town.before_write\ndef rule(write): ...\n")
        for name in ("shared_a", "shared_b")
    ]
    [town] = load(names)

    assert [rule.__module__ for _, rule in town.hooks.rules] == names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "import nowhere",
            "cannot be imported: ModuleNotFoundError: No module named 'nowhere'",
        ),
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("def f(:", "cannot be imported: SyntaxError"),
        ("town = 1", "registers nothing: it holds no ferry.Extension with a hook"),
        ("import ferry; town = ferry.Extension('t')", "registers nothing"),
        (
            "import ferry; town = ferry.Extension('a b')",
            "cannot be imported: ValueError: an extension's",
        ),
    ],
)
def test_a_module_that_is_no_extension_ends_the_start_with_one_line(module, text, said):
    module("wrong", text)
    with pytest.raises(SettingsError) as raised:
        load_extensions(_settings(CFP_API_EXTENSIONS="wrong"))

    assert str(raised.value).startswith(f"CFP_API_EXTENSIONS: wrong: {said}")
    assert "\n" not in str(raised.value)


def test_two_extensions_cannot_have_one_name(module):
    names = [module(name, GOOD.format("twin")) for name in ("twin_a", "twin_b")]
    with pytest.raises(ExtensionError, match="twin_b: another extension is named 'twin' too"):
        load(names)


def test_names_are_separated_by_spaces_or_commas():
    found = _settings(CFP_API_EXTENSIONS=" town.rules,town.routes  more, town.rules ").api_extensions
    assert found == ("town.rules", "town.routes", "more")
    with pytest.raises(SettingsError, match=r"CFP_API_EXTENSIONS: 'town.py/x' is not the name of a"):
        _settings(CFP_API_EXTENSIONS="town.py/x")


def test_the_public_package_is_light():
    """
    Each process that runs a function apart imports it.
    """
    text = "import ferry, sys; print(sorted(name for name in sys.modules if name.startswith('ferry')))"
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, env=clean_environment(), timeout=60,
        check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "['ferry']"


def test_a_worker_says_what_is_wrong_with_an_extension_and_ends(data, module):
    module("broken", "\n1 / 0")
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "ferry.worker", "worker"],
        env={
            **clean_environment(),
            "CFP_DATA_REPO_PATH": str(data.path),
            "CFP_REDIS_URL": "redis://127.0.0.1:1/0",
            "CFP_API_EXTENSIONS": "broken",
        },
        cwd=os.getcwd(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert (
        last == "ferry: CFP_API_EXTENSIONS: broken: cannot be imported: "
        "ZeroDivisionError: division by zero (broken.py, line 2)"
    )


# --- What extensions are made of ---


def test_a_rule_is_for_the_sheets_that_it_names():
    town = Extension("town")
    town.before_write("people", "places")(print)
    town.before_write()(len)
    town.before_write(repr)
    assert town.hooks.rules == [(frozenset({"people", "places"}), print), (None, len), (None, repr)]
    with pytest.raises(TypeError):
        town.before_write(7)  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["", "a b", "jane@example", "x" * 64, "-x"])
def test_a_callers_name_is_an_authors(name):
    with pytest.raises(ValueError, match="a caller's name"):
        Caller(name)


def test_scopes_are_read_and_write():
    caller = Caller("jane", ["read:places", "write:people"])
    assert [caller.may_write(sheet) for sheet in ("people", "places")] == [True, False]
    assert [caller.may_read(sheet) for sheet in ("people", "places", "events")] == [True, True, False]
    assert Caller("ana").may_write("anything")
    for scopes in ("write:people", ["people"], ["admin:x"]):
        with pytest.raises(ValueError, match="scopes are such as"):
            Caller("jane", scopes)


@pytest.mark.parametrize("wrong", [{"code": "Not Mine"}, {"status": 200}, {"status": 499}])
def test_a_refusal_is_one(wrong):
    with pytest.raises(ValueError):  # noqa: PT011
        Refused("no", **wrong)
