"""
What the remote and git printed, as people are shown it.
"""

from __future__ import annotations

import time

import pytest

from ferry.worker.dossier import as_printed


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("remote: no        \nremote: \nDone\n", "remote: no\nremote:\nDone"),
        ("remote: 1%\rremote: 50%\rremote: done\r\nno", "remote: done\nno"),
        ("\x1b[31mremote: no\x1b[0m \x1b]0;title\x07red\x00\x9b", "remote: no red"),
        ("!\tmain:main\t[rejected]\n", "!\tmain:main\t[rejected]"),
        ("die Bürgermeisterin \U0001f6ab", "die Bürgermeisterin \U0001f6ab"),
        ("", ""),
    ],
)
def test_what_was_printed_stands_as_in_a_terminal_and_cannot_write_to_one(said: str, shown: str):
    assert as_printed(said) == shown


def test_a_long_text_keeps_both_ends():
    said = as_printed("first " + "x" * 100_000 + " last")
    assert len(said) < 8100
    assert said.startswith("first x")
    assert said.endswith("x last")
    assert "\n[...]\n" in said


@pytest.mark.parametrize("piece", ["x", "\r", "\x1b", "\x1b]", "\x1b[1", " ", "\n"])
def test_the_time_for_it_grows_with_its_length_alone(piece: str):
    began = time.process_time()
    as_printed(piece * (500_000 // len(piece)))
    assert time.process_time() - began < 5  # of which the square of the length would take minutes
