"""
What the chart's schema says of names that it does not know.

    python -m tests.deployment.schema

writes it into helm/ferry/values.schema.json, to be done after a value was added. A schema can refuse an
unknown name, but not say which one was meant. So each object of the schema also has patterns for the names
that are nearly those it knows, and for what other charts call things: whatever stands there is refused by a
sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from tests.deployment.helm import CHART

SCHEMA = CHART / "values.schema.json"
WIDTH = 118

ONE = (
    "always 1: a second pod would have a volume, and so a repository, of its own; use api.workers or replicas"
)
# What other charts have, by the object's path, and what stands for it here.
ELSEWHERE = {
    "": {
        "replicaCount|autoscaling": ONE,
        "env|extraEnvVars": "use extraEnv",
        "envFrom|extraEnvVarsCM|extraEnvVarsSecret": "use extraEnvFrom",
        "volumes": "use extraVolumes",
        "volumeMounts": "use extraVolumeMounts",
        "imagePullSecrets": "use image.pullSecrets",
        "nameOverride": "use fullnameOverride",
        "resources": "use api.resources, worker.resources, beat.resources and flower.resources",
        "securityContext": "use podSecurityContext; each container's is fixed",
        "redis": "use valkey, or secrets.CFP_REDIS_URL for one of your own",
        "config": "use settings",
        "replica|readReplicas|primary": "use replicas",
    },
    "settings": {
        "CFP_(DATA_REMOTE|DATA_MIRRORS|REDIS_URL|BROKER_URL|API_TOKENS|ADMIN_TOKEN|DATA_RELOAD_SECRET)"
        "|SENTRY_(DSN|AUTH_TOKEN)|FLOWER_BASIC_AUTH": "may hold a secret: use secrets",
        "CFP_DATA_REPO_PATH|CFP_SSH_.*|CFP_HTTPS_TOKEN_PATH": "the chart sets it; see ssh and httpsToken",
        "GIT_SSH_COMMAND": "use ssh.command",
        "OTEL_EXPORTER_OTLP_(TRACES_)?HEADERS": "may hold a secret: use extraEnv with a secretKeyRef",
    },
    "api": {"replicaCount|replicas|autoscaling": ONE},
    "worker": {"replicaCount|replicas|autoscaling": ONE, "concurrency": "it follows from the remotes"},
    "ingress": {"hosts": "use ingress.host", "tls": "use ingress.tlsSecret", "path": "use ingress.paths"},
    "persistence": {
        "enabled": "always: commits are durable; an existing claim is persistence.existingClaim",
        "accessMode": "use persistence.accessModes",
        "storageClassName": "use persistence.storageClass",
    },
}


def with_hints(node: Any, path: str = "") -> Any:
    """
    Return the schema *node* with what is said of unknown names.
    """
    if not isinstance(node, dict):
        return node
    known = node.get("properties", {})
    told = {name: with_hints(each, f"{path}.{name}".strip(".")) for name, each in known.items()}
    if not known or node.get("additionalProperties") is not False:
        return node
    hints = dict(ELSEWHERE.get(path, {}))
    said = {f"^({names})$": {"enum": [sentence]} for names, sentence in hints.items()}
    taken = [re.compile(f"^({names})$") for names in hints]
    for name in known:
        others = [each for each in known if each != name]
        if pattern := nearly(name, others):
            said[pattern] = {"enum": [f"did you mean {name}?"]}
    assert not any(each.match(name) for each in taken for name in known)
    return {**node, "properties": told, "patternProperties": said}


def nearly(name: str, others: Iterable[str]) -> str:
    """
    Return a regular expression for what differs from *name* in two neighbouring letters, but for *others*.

    Nor for *name* itself; Go's expressions cannot leave a word out, so what stands for two letters is spelt.
    """
    parts = []
    for at in range(len(name) - 1):
        one, two = name[at], name[at + 1]
        part = f"{name[:at]}(.?|[^{one}].|{one}[^{two}]|...){name[at + 2 :]}"
        if len(name) > 3 and not any(re.fullmatch(part, other) for other in others):
            parts.append(part)
    return f"^({'|'.join(parts)})$" if parts else ""


def as_text(node: Any, indent: int = 0) -> str:
    """
    Write *node* as JSON, each object on one line where it fits.
    """
    line = json.dumps(node)
    if not isinstance(node, dict) or (len(line) + indent <= WIDTH and "patternProperties" not in line):
        return line
    blanks = " " * (indent + 2)
    members = [f"{blanks}{json.dumps(name)}: {as_text(each, indent + 2)}" for name, each in node.items()]
    return "{\n" + ",\n".join(members) + "\n" + " " * indent + "}"


def main() -> None:
    """
    Write the schema anew.
    """
    SCHEMA.write_text(as_text(with_hints(json.loads(SCHEMA.read_text()))) + "\n")


if __name__ == "__main__":
    main()
