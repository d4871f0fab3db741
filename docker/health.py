#!/opt/ferry/bin/python -IS
"""
Whether the role of this container is well: status 0, or 1 and one line.

``ferry-health`` checks the role that the entrypoint noted; ``ferry-health http URL`` and
``ferry-health listens PORT`` check what they name; ``ferry-health writes URL RECORD`` creates a record, reads
it back and deletes it, as the writer whose token is in ``TOKEN``. It imports nothing of Ferry's and takes
some 50 ms, for it runs every few seconds in every container.

The worker and beat have one heartbeat between them, the sweep: beat sends it, a worker notes when it
took place. An old one says that beat, the broker or the worker stands still, whichever it is.
"""

import json
import os
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

_TIMEOUT_S = 4.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it asks this machine or this cluster
_SWEEPS_MISSED = 4
_SLACK_S = 30.0  # a worker that has just started, a clock that is a little off


def main(arguments: list[str]) -> None:
    """
    Check what *arguments* name, or the role of this container.
    """
    role, *target = arguments or [_role()]
    match role:
        case "api":
            _http(f"http://127.0.0.1:{os.environ.get('PORT', '8000')}/api/health")
        case "flower":
            _http(f"http://127.0.0.1:{os.environ.get('PORT', '5555')}/healthcheck")
        case "worker" | "beat":
            _sweep()
        case "http":
            _http(*target)
        case "listens":
            _listens(int(*target))
        case "writes":
            _writes(*target)
        # Any other command is well for as long as it runs.


def _role() -> str:
    return (Path(os.environ.get("TMPDIR") or "/tmp") / "ferry-role").read_text("utf-8").strip()  # noqa: S108


def _http(url: str) -> None:
    with _OPENER.open(url, timeout=_TIMEOUT_S):  # raises for any status that is no success
        pass


def _writes(records: str, record: str) -> None:
    created = _send("POST", records, record)
    address = f"{records}/{urllib.parse.quote(created['path'])}"
    try:
        found = _send("GET", address)["record"]
        if found != created["record"]:
            sys.exit(f"wrote {created['record']}, read {found}")
    finally:
        _send("DELETE", address)


def _send(method: str, url: str, body: str | None = None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, body and body.encode(), headers, method=method)  # noqa: S310
    with _OPENER.open(request, timeout=_TIMEOUT_S) as answer:
        return dict(json.load(answer))


def _listens(port: int) -> None:
    # Looked up, not tried: sshd writes three lines of log for each connection that says nothing.
    files = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
    sockets = [line.split() for file in files if file.exists() for line in file.read_text().splitlines()[1:]]
    if not any(local.endswith(f":{port:04X}") and state == "0A" for _, local, _, state, *_ in sockets):
        sys.exit(f"nothing listens on port {port}")


def _sweep() -> None:
    record = Path(os.environ["CFP_DATA_REPO_PATH"]).expanduser() / "ferry" / "sweep.json"
    age_s = time.time() - json.loads(record.read_text("utf-8"))["at"]
    interval_s = float(os.environ.get("CFP_PUSH_SWEEP_INTERVAL") or 15)
    if age_s > _SWEEPS_MISSED * interval_s + _SLACK_S:
        sys.exit(f"the last sweep took place {age_s:.0f} s ago: is beat, the broker or the worker gone?")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        sys.exit(f"{type(exc).__name__}: {exc}")
