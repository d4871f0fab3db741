"""
What must hold for the repository as a whole, whatever its parts do.

Each rule reads the files that git would commit (tracked, or new and not ignored), so that it says no
before the commit does. What a single tool can check by itself is in ``pyproject.toml`` instead.
"""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.longest import LONGEST

ROOT = Path(__file__).resolve().parents[2]


@cache
def _files() -> tuple[Path, ...]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, such as an unpacked sdist")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    # A tracked file that was just deleted is listed still.
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return tuple(path for path in paths if path.is_file())


def _sources(*packages: str) -> Iterator[Path]:
    return (path for path in _files() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in packages)


def _mentions(needles: list[str]) -> list[str]:
    """
    Return a line for each place where a file contains one of *needles*, in any case.
    """
    sought = [needle.lower().encode() for needle in needles]
    return [
        f"{path.relative_to(ROOT)}:{number}: {needle.decode()}"
        for path in _files()
        for text in [path.read_bytes().lower()]
        for needle in sought
        if needle in text
        for number, line in enumerate(text.splitlines(), start=1)
        if needle in line
    ]


# --- What no file says ---


def test_no_file_names_a_package_registry():
    """
    Where packages come from is a matter of the machine's configuration, often a mirror.
    """
    # Put together here, or this file would name them.
    hosts = [
        ".".join(parts)
        for parts in [
            ("pypi", "org"),
            ("pypi", "python", "org"),
            ("pythonhosted", "org"),
            ("npmjs", "org"),
            ("npmjs", "com"),
            ("yarnpkg", "com"),
            ("deb", "debian", "org"),
            ("archive", "ubuntu", "com"),
            ("crates", "io"),
            ("proxy", "golang", "org"),
            ("rubygems", "org"),
        ]
    ]

    assert _mentions(hosts) == []


def test_no_file_points_outside_the_repository():
    """
    A reader has this repository and nothing beside it.
    """
    assert _mentions(["../" + "shared", "/work" + "/"]) == []


# --- Who knows whom ---


def test_the_worker_never_imports_the_app():
    """
    Also not inside a function, where only the day of the failure would show it.
    """
    imported = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in _sources("worker")
        for node in ast.walk(ast.parse(path.read_bytes()))
        for name in _imported_names(node)
        if name.split(".")[0] == "app" or name.split(".")[:2] == ["ferry", "app"]
    ]

    assert imported == []


def _imported_names(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case _:
            return []


def test_importing_the_worker_loads_no_flask_and_needs_no_settings():
    """
    The worker's processes carry no web framework, and nothing is built at import.
    """
    script = "import sys, worker; print(*sorted({'app', 'flask', 'werkzeug'} & set(sys.modules)))"
    bare = {name: value for name, value in os.environ.items() if not name.startswith("CFP_")}

    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=bare, capture_output=True, text=True)

    assert (run.returncode, run.stderr, run.stdout.strip()) == (0, "", "")


# --- What is documented ---


def test_every_setting_is_documented():
    """
    Each ``CFP_*`` name that the sources mention stands in the settings reference.
    """
    # "CFP_PUSH_*" and other beginnings of names are not names.
    name = re.compile(r"\bCFP_[A-Z0-9]+(?:_[A-Z0-9]+)*(?![A-Z0-9_*])")
    mentioned = {found for path in _sources("app", "worker") for found in name.findall(path.read_text())}
    assert mentioned, "the sources mention no setting at all: has the prefix changed?"

    reference = ROOT / "docs" / "reference" / "settings.md"
    documented = set(name.findall(reference.read_text())) if reference.exists() else set()

    assert mentioned - documented == set(), f"missing from {reference.relative_to(ROOT)}"


def test_bare_make_explains_every_target():
    # Flags of the make that runs this test are none of the inner one's business.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}

    shown = subprocess.run(["make"], cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout

    (targets,) = re.findall(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    explained = set(re.findall(r"^make (\S+) +\S", shown, re.MULTILINE))
    assert explained == set(targets.split())


# --- What is installed ---


def _pins(name: str) -> dict[str, str]:
    """
    Return package to version, as ``requirements/NAME.txt`` pins them.
    """
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE)
    return {canonicalize_name(package): version for package, version in pins}


def test_deployments_run_the_versions_that_were_tested():
    run, build, dev = _pins("run"), _pins("build"), _pins("dev")

    assert run
    assert build
    assert run.items() | build.items() <= dev.items()


PYTHONS = ["3.11.0", "3.12.0", "3.13.0", "3.14.0"]


@pytest.mark.parametrize("python", PYTHONS)
def test_each_pin_admits_every_python(python: str):
    """
    pip-compile asks for the Python that it runs on, and a distribution's may be an older 3.11.
    """
    refused = {
        f"{package} needs Python {needed}"
        for package in _pins("dev")
        if _is_installed(package)
        and (needed := distribution(package).metadata.get("Requires-Python"))
        and python not in SpecifierSet(needed)
    }

    assert refused == set()


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("pins", ["run", "dev"])
def test_the_pins_are_complete_on_every_python(python: str, pins: str):
    """
    pip-compile sees only the Python that it runs on; ``--require-hashes`` refuses what it missed.

    ``requirements/run.in`` is the place for what is missing.
    """
    there = _pins(pins)
    environment = {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "extra": "",
    }

    missing = {
        f"{package} needs {requirement}"
        for package in there
        if _is_installed(package)
        for requirement in map(Requirement, distribution(package).requires or [])
        if requirement.marker is None or requirement.marker.evaluate(environment)
        if canonicalize_name(requirement.name) not in there
    }

    assert missing == set()


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.parametrize(
    ("pins", "extras"),
    [("run", []), ("dev", ["dev", "test"])],
)
def test_every_declared_dependency_is_pinned(pins: str, extras: list[str]):
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = [*pyproject["project"]["dependencies"]]
    for extra in extras:
        declared += pyproject["project"]["optional-dependencies"][extra]
    if extras:  # `make` installs Ferry itself without build isolation
        declared += pyproject["build-system"]["requires"]

    there = _pins(pins)
    unmet = [
        text
        for text in declared
        for requirement in [Requirement(text)]
        if not requirement.specifier.contains(there.get(canonicalize_name(requirement.name), "0"))
    ]

    assert unmet == [], "run make lock"


# Of gitsheets, what may run code that stands in a declaration, and where each is called: apart, or with a
# declaration that holds none.
_MAY_RUN_CODE = {
    "CompiledDefinition": set(),
    "CoreTransaction": {"app/sheets/renderer.py", "worker/hosting/merge_writes.py"},
    "core_check_validators": set(),
    "merge_record_texts": set(),
    "merge_sheets": {"worker/repair/merging.py"},
    "record_index_multi": set(),
    "record_index_unique": set(),
    "record_query": set(),
    "record_query_candidates": set(),
    "render_paths_batch": {"app/sheets/record_path.py", "app/sheets/renderer.py"},
    "run_comparator": set(),
    "template_field_names": {"app/sheets/renderer.py"},
    "transact": {"app/dev/sample.py"},
    "verify_sheet_contract": {"app/sheets/declarations.py"},
}


def test_what_may_run_a_declarations_code_is_called_in_few_places():
    called = {name: set() for name in _MAY_RUN_CODE}
    for package in ("app", "worker"):
        for path in (ROOT / package).rglob("*.py"):
            for name in re.findall(r"\bgitsheets\.(\w+)", path.read_text()):
                if name in called:
                    called[name].add(str(path.relative_to(ROOT)))
    assert called == _MAY_RUN_CODE


def test_nothing_tells_people_to_install_another_package_of_that_name():
    """
    `ferry` in the package index is not ours: the distribution is gitsheets-ferry.
    """
    wrong = re.compile(r"(?:pip|pipx|uv) (?:tool )?install (?:-\S+ )*['\"]?ferry(?![\w/.-])")
    told = [path for path in _files() if wrong.search(path.read_text("utf-8", "ignore"))]
    assert told == []


def test_the_longest_tests_are_known_by_their_names():
    tests = [path.read_text() for path in _sources("tests")]
    defined = {name for text in tests for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    assert set(LONGEST) - defined == set()
