"""
What may stand in a queue and is no message of Ferry's, for tests of the consumer and of a whole worker.
"""

from __future__ import annotations

import base64
import copy
import json
from typing import Any


def changed(message: dict[str, Any], path: str, value: Any) -> str:
    """
    Return *message* with another *value* at *path*, or with None without it.
    """
    copied = copy.deepcopy(message)
    *parents, last = path.split(".")
    place = copied
    for parent in parents:
        place = place[parent]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return json.dumps(copied)


def with_body(message: dict[str, Any], body: Any) -> str:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return changed(message, "body", base64.b64encode(text).decode())


def no_messages(message: dict[str, Any]) -> list[str | bytes]:
    """
    Return what could be taken for a message such as *message*.
    """
    plain = [b'"x"', b"[]", b"[1]", b"{}", b"7", b"null", b"not JSON", b"\xff\xfe\x00", b"", b"[" * 5000]
    args = ["origin", "abc"]
    bodies = [
        "x", [], [1], 7, None, {}, {"args": []}, {"task": "push"}, [1, 2, 3], [[], [], {}], [[], {}, []],
        [["origin"], {}, {}], [[*args, 1, 2, 3, 4], {}, {}], [args, {"x": 1}, {}], [["origin", args], {}, {}],
        [[7, "abc"], {}, {}], [args, {"out_of_turn": "x"}, {}], [args, {"occasion": 1}, {}],
        [args, {}, {"callbacks": [{"task": "push"}]}],
        b"not JSON", b"\xff\xfe",
    ]  # fmt: skip
    changes = [
        *(("body", each) for each in ("%%%", 7, None)),
        *(("headers", each) for each in (["x"], None, {}, {"unheard": "of"})),
        *(("headers.task", each) for each in (["push"], "no.such.task", "celery.group", None)),
        *(("headers.id", each) for each in (7, None)),
        *(("headers.eta", each) for each in ("noon", {"at": "noon"})),
        ("headers.expires", [1]),
        ("headers.retries", "many"),
        ("headers.timelimit", ["a", "b"]),
        ("headers.argsrepr", {}),
        ("headers.compression", "gzip"),
        *(("content-type", each) for each in ("application/x-python-serialize", "text/plain", [], None)),
        *(("content-encoding", each) for each in ("utf-99", "binary", {}, None)),
        *(("properties", each) for each in ([], {}, None)),
        ("properties.body_encoding", "rot13"),
        *(("properties.delivery_tag", each) for each in ([1], None)),
        *(("properties.delivery_info", each) for each in ([], None)),
        ("properties.delivery_info.routing_key", "elsewhere"),
        ("properties.delivery_info.exchange", None),
    ]
    return [
        *plain,
        *(with_body(message, each) for each in bodies),
        *(changed(message, *each) for each in changes),
    ]
