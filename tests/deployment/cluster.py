"""
As much of a Kubernetes API as Helm asks when a template looks a Secret up.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

_DISCOVERY: dict[str, dict[str, Any]] = {
    "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [{"name": "secrets", "namespaced": True, "kind": "Secret", "verbs": ["get", "list"]}],
    },
}


@contextlib.contextmanager
def cluster(directory: Path, secrets: dict[str, dict[str, str]]) -> Iterator[Path]:
    """
    Serve *secrets*, by name, whatever their namespace; yields the kubeconfig, which is kept in *directory*.
    """

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            name = path.rpartition("/secrets/")[2]
            if path in _DISCOVERY:
                self._answer(200, _DISCOVERY[path])
            elif name in secrets:
                kept = secrets[name].items()
                data = {key: base64.b64encode(value.encode()).decode() for key, value in kept}
                found = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": name}, "data": data}
                self._answer(200, found)
            else:
                self._answer(404, {"kind": "Status", "apiVersion": "v1", "reason": "NotFound", "code": 404})

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        kubeconfig = directory / "kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        kubeconfig.write_text(yaml.safe_dump(config))
        yield kubeconfig
        server.shutdown()
        thread.join()
