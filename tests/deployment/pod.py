"""
The chart's pod, run by Docker: where there is no cluster, the nearest thing to one.

What Kubernetes would do with the rendered StatefulSet is done with its own words: the init container first,
then the others, in one network, with their arguments, environments, mounts and security contexts; the volume
and the secrets belong to root and to the pod's group. Then the probes are run. Scheduling, services and
network policies are not part of it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

Run = Callable[..., str]

ANY_USER = 1000680000  # where the chart names none: what OpenShift gives a namespace, with the group 0


class Pod:
    """
    One pod of a rendered StatefulSet.

    Args:
        manifests: The rendered chart.
        name: What Kubernetes would call the pod.
        run: Runs a command, and returns its output.
    """

    def __init__(self, manifests: list[dict[str, Any]], name: str, run: Run) -> None:
        self._manifests = manifests
        self._name = name
        self._run = run
        (workload,) = (each for each in manifests if each["kind"] == "StatefulSet")
        self.spec = workload["spec"]["template"]["spec"]
        context = {
            "runAsUser": ANY_USER,
            "runAsGroup": 0,
            "fsGroup": ANY_USER,
            **self.spec["securityContext"],
        }
        self.user = "{runAsUser}:{runAsGroup}".format(**context)
        self._group = context["fsGroup"]

    def start(self, *network: str) -> None:
        """
        Start the pod in a network, with the options of `docker run` that say which.
        """
        image = self.spec["containers"][0]["image"]
        self._run(
            *("docker", "run", "--detach", "--name", self._name, "--hostname", self._name, *network),
            *("--entrypoint", "sleep", image, "infinity"),
        )
        self._fill("data", {})
        for volume in self.spec["volumes"]:
            if secret := volume.get("secret"):
                stored = self._find("Secret", secret["secretName"])["stringData"]
                files = {item["path"]: stored[item["key"]] for item in secret["items"]}
                self._fill(volume["name"], files, mode=f"{secret['defaultMode']:o}")
        for container in self.spec["initContainers"]:
            self._run("docker", "run", "--rm", *self._options(container))
        for container in self.spec["containers"]:
            name = self.container(container["name"])
            self._run("docker", "run", "--detach", "--name", name, *self._options(container))

    def container(self, name: str) -> str:
        """
        Return what Docker calls a container of the pod.
        """
        return f"{self._name}-{name}"

    def failing_probes(self) -> list[str]:
        """
        Run every probe, and return those that fail.
        """
        failing = []
        for container in self.spec["containers"]:
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                match container.get(kind):
                    case {"httpGet": {"path": path, "port": port}}:
                        command = ["ferry-health", "http", f"http://127.0.0.1:{ports[port]}{path}"]
                    case {"exec": {"command": command}}:
                        pass
                    case _:
                        continue
                done = subprocess.run(
                    ["docker", "exec", self.container(container["name"]), *command], capture_output=True
                )
                if done.returncode:
                    failing.append(f"{container['name']} {kind}")
        return failing

    def stop(self, name: str) -> int:
        """
        Stop one container as Kubernetes does, and return its exit status.
        """
        grace = str(self.spec["terminationGracePeriodSeconds"])
        self._run("docker", "stop", "--time", grace, self.container(name))
        return int(self._run("docker", "inspect", "--format", "{{.State.ExitCode}}", self.container(name)))

    def remove(self) -> None:
        """
        Take the pod and its volumes away, whatever there is of them.
        """
        names = [self.container(each["name"]) for each in self.spec["containers"]]
        volumes = [self._volume(each["name"]) for each in self.spec["volumes"]]
        volumes += [self._volume("data"), self._volume("data-flower")]
        self._run("docker", "rm", "--force", *names, self._name, check=False)
        self._run("docker", "volume", "rm", "--force", *volumes, check=False)

    def _options(self, container: dict[str, Any]) -> list[str]:
        context = container["securityContext"]
        options = ["--network", f"container:{self._name}", "--user", self.user]
        options += ["--group-add", str(self._group)]
        options += ["--read-only"] if context["readOnlyRootFilesystem"] else []
        options += ["--cap-drop=ALL"] if context["capabilities"]["drop"] == ["ALL"] else []
        if not context["allowPrivilegeEscalation"]:
            options += ["--security-opt=no-new-privileges"]
        options += ["--memory", container["resources"]["limits"]["memory"].replace("i", "").lower()]
        memory = {each["name"] for each in self.spec["volumes"] if "emptyDir" in each}
        for mount in container["volumeMounts"]:
            if mount["name"] in memory:
                options += ["--tmpfs", f"{mount['mountPath']}:size=64m,mode=1777"]
            else:
                read_only = ":ro" if mount.get("readOnly") else ""
                # docker mounts no part of a volume, so a part is one of its own here.
                volume = self._volume("-".join(filter(None, [mount["name"], mount.get("subPath")])))
                options += ["--volume", f"{volume}:{mount['mountPath']}{read_only}"]
        env = self._environment(container)
        options += [part for name, value in env.items() for part in ("--env", f"{name}={value}")]
        arguments = container["args"]
        for name, value in env.items():
            arguments = [each.replace(f"$({name})", value) for each in arguments]
        return [*options, container["image"], *arguments]

    def _environment(self, container: dict[str, Any]) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in container["envFrom"]:
            if reference := source.get("configMapRef"):
                found |= self._find("ConfigMap", reference["name"])["data"]
            else:
                found |= self._find("Secret", source["secretRef"]["name"])["stringData"]
        fields = {"metadata.name": self._name, "metadata.namespace": "data"}
        for each in container.get("env", []):
            found[each["name"]] = (
                each["value"] if "value" in each else fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
            )
        return found

    def _find(self, kind: str, name: str) -> dict[str, Any]:
        return next(
            each for each in self._manifests if (each["kind"], each["metadata"]["name"]) == (kind, name)
        )

    def _volume(self, name: str) -> str:
        return f"{self._name}-{name}"

    def _fill(self, name: str, files: dict[str, str], *, mode: str = "") -> None:
        """
        Make a volume as kubelet does: root's, for the pod's group.
        """
        # nocopy: else Docker gives a new volume the owner that the image has in that place.
        mount = f"type=volume,source={self._volume(name)},target=/volume,volume-nocopy=true"
        give = f"give() {{ chown root:{self._group} $1; chmod $2 $1; }}; give /volume 2775"
        write = [
            f'(umask 077; printf %s "${number}" >/volume/{path}); give /volume/{path} {mode}'
            for number, path in enumerate(files, 1)
        ]
        script = "; ".join([give, *write])
        self._run(
            *("docker", "run", "--rm", "--user", "0:0", "--network=none", "--mount", mount),
            *("--entrypoint", "sh", self.spec["containers"][0]["image"], "-euc", script, "sh"),
            *files.values(),
        )
