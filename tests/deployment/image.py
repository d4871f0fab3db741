"""
The image and the compose file, for real: `make image-test`, where a Docker engine is.

Builds both images, looks at how they run, brings everything up, writes records over HTTP and finds their
commits at the demo's git server, where they came over ssh. Then it kills each container in turn, stops the
worker in the middle of a push, brings up the production file, types what the how-tos for compose say, and
runs the chart's pod, as Kubernetes would and as OpenShift would, which chooses user ids by itself. Containers
and volumes it takes away again. What came of it replaces the rows of a table in docs/reference/supported.md.
Some six minutes, most of them for the images.

`make image-test PARTS="chart pod"` does parts: chart, image, compose, replicas, production, how-to, pod.

Variables: DOCKER_BUILD_ARGS goes to `docker build` (default: `--network=host`, which works with every
engine), KEEP=1 leaves everything up.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shlex
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kubernetes_validate

from tests.deployment.helm import CHART, ROOT, fetch
from tests.deployment.pod import Pod

IMAGE, GIT_IMAGE = "ferry:image-test", "ferry-demo-git-server:image-test"
GIT_URL = "ssh://ferry@git-server:2222/srv/git/data.git"
BASE = "python:3.11-slim-bookworm"
ROLES = ("api", "worker", "beat", "flower")
SERVICES = (*ROLES, "valkey", "git-server")
ARRIVES_WITHIN_S = 90.0

# Where no image registry is reached, Debian's packages stand in for images that are not Ferry's.
STAND_INS = {
    "valkey/valkey:8.1-alpine": "redis-server && ln -s redis-server /usr/bin/valkey-server "
    "&& ln -s redis-cli /usr/bin/valkey-cli",
    "caddy:2-alpine": "caddy",
}

_numbers = itertools.count(1)

PAGE = ROOT / "docs" / "reference" / "supported.md"
BEGIN, END = "<!-- make image-test: begin -->\n", "<!-- make image-test: end -->\n"
HEAD = "| what ran | what came of it | when |\n|---|---|---|\n"


class Failed(Exception):
    """
    The image or the compose file does not do what it says.
    """


def say(text: str) -> None:
    """
    Tell what was found, with the time it took since the start.
    """
    sys.stdout.write(f"{time.monotonic() - _BEGAN:6.1f} s  {text}\n")
    sys.stdout.flush()


_BEGAN = time.monotonic()


def row(what: str, outcome: str) -> None:
    """
    Put what was found into the page's table, in the place of what an earlier run said of it.
    """
    before, rest = PAGE.read_text().split(BEGIN)
    table, after = rest.split(END)
    lines = [line for line in table.splitlines() if line.startswith("| ") and line not in HEAD]
    rows = {line.split(" | ")[0]: line for line in lines}
    rows[f"| {what}"] = f"| {what} | {outcome} | {datetime.now(UTC):%F} |"
    PAGE.write_text(before + BEGIN + "\n" + HEAD + "\n".join(rows.values()) + "\n\n" + END + after)


def run(*command: str, check: bool = True, env: dict[str, str] | None = None, cwd: Path = ROOT) -> str:
    """
    Run *command* and return what it wrote to standard output.

    Raises:
        Failed: With the end of what it wrote, where its status is not 0.
    """
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if check and done.returncode:
        raise Failed(
            f"{shlex.join(command)}: status {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}"
        )
    return done.stdout.strip()


def demand(truth: object, what: str) -> None:
    """
    Go on only where *truth* is true.
    """
    if not truth:
        raise Failed(what)
    say(what)


def wait_until(is_true: Callable[[], object], what: str, timeout_s: float = ARRIVES_WITHIN_S) -> None:
    """
    Poll until *is_true* answers with something true.
    """
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            raise Failed(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.2)
    say(what)


def again(act: Callable[[], object], times: int = 4) -> None:
    """
    Do *act*, and again where it failed.
    """
    for left in reversed(range(times)):
        try:
            act()
            return
        except Failed:
            if not left:
                raise
            time.sleep(5)


def free_port() -> int:
    """
    Return a port of loopback's that nobody listens on.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stack:
    """
    One compose project with ports of its own.
    """

    def __init__(self, project: str, *options: str, **environment: str) -> None:
        self.project = project
        self.port, self.flower_port = free_port(), free_port()
        self.token, self.settings = "demo", environment
        self._compose = ("docker", "compose", "--project-name", project, *options)
        self.env = {
            **os.environ,
            "FERRY_IMAGE": IMAGE,
            "FERRY_DEMO_IMAGE": GIT_IMAGE,
            "FERRY_PORT": str(self.port),
            "FLOWER_PORT": str(self.flower_port),
            **environment,
        }

    def __call__(self, *arguments: str, check: bool = True) -> str:
        return run(*self._compose, *arguments, check=check, env=self.env)

    def up(self, *services: str) -> None:
        """
        Start what does not run, and wait until all of it is healthy; *services* may be options, too.

        On a busy machine a check may time out, and Compose gives up at the first that does.
        """
        again(lambda: self("up", "--detach", "--no-build", "--wait", "--wait-timeout", "180", *services))

    def container(self, service: str) -> dict[str, Any]:
        """
        Return what Docker knows of the service's container.
        """
        found = self("ps", "--all", "--quiet", service)
        return dict(json.loads(run("docker", "inspect", found))[0])

    def get(self, path: str, *, port: int | None = None, body: object = None) -> tuple[int, Any]:
        """
        Return the status and the JSON of a GET, or of a POST where there is a *body*.
        """
        request = urllib.request.Request(
            f"http://127.0.0.1:{port or self.port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as exc:
            return exc.code, json.load(exc)

    def answers(self) -> bool:
        """
        Whether the API is there.
        """
        try:
            return self.get("/api/health")[0] == 200
        except OSError:
            return False

    def write(self) -> str:
        """
        Create a record, and return the commit that it was acknowledged with.
        """
        name = f"visitor-{os.getpid()}-{next(_numbers)}"
        status, answer = self.get("/api/sheets/people/records", body={"slug": name, "name": name})
        if status != 201:
            raise Failed(f"POST answered {status}: {answer}")
        return str(answer["commit"]["hash"])

    def arrived(self) -> set[str]:
        """
        Return the commits on the git server's branch.
        """
        return set(
            self("exec", "-T", "git-server", "git", "-C", "/srv/git/data.git", "rev-list", "main").split()
        )

    def await_commits(self, commits: list[str], when: str) -> None:
        """
        Wait until all of *commits* are on the git server.
        """
        wait_until(lambda: set(commits) <= self.arrived(), f"{when}: all {len(commits)} commits arrived")

    def key_file(self, name: str) -> str:
        """
        Return a file that the demo's git server made for Ferry.
        """
        return self("exec", "-T", "git-server", "cat", f"/srv/keys/{name}") + "\n"

    def down(self) -> None:
        """
        Take everything away, volumes too.
        """
        self("down", "--volumes", "--remove-orphans", "--timeout", "20", check=False)


def build() -> None:
    """
    Build the images, and find or make those of others.
    """
    arguments = shlex.split(os.environ.get("DOCKER_BUILD_ARGS", "--network=host"))
    run("make", "image", f"DOCKER_BUILD_ARGS={shlex.join(arguments)}", f"IMAGE={IMAGE}")
    run("docker", "build", *arguments, "--tag", GIT_IMAGE, "--target", "demo-git-server", ".")
    say("both images were built")
    for image, packages in STAND_INS.items():
        if run("docker", "image", "ls", "--quiet", image):
            continue
        try:
            run("docker", "pull", "--quiet", image)
            say(f"{image} was pulled")
        except Failed:
            recipe = (
                f"FROM {BASE}\nRUN apt-get update -qq && apt-get install -y -qq --no-install-recommends "
                f"{packages.replace(' && ', ' >/dev/null && ', 1)}\n"
            )
            subprocess.run(
                ["docker", "build", *arguments, "--quiet", "--tag", image, "-"],
                input=recipe.encode(),
                check=True,
                capture_output=True,
            )
            say(f"no registry has {image}: Debian's package stands in for it")


def look_at_the_image(_: Stack) -> None:
    """
    Check what the image says of itself, and what it does with a wrong environment.
    """
    config = json.loads(run("docker", "inspect", IMAGE))[0]["Config"]
    demand(
        config["User"] == "10001:10001" and config["Healthcheck"], "the image has a user and a health check"
    )
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items()}
    version = run("make", "--silent", "version")
    demand((labels["licenses"], labels["version"]) == ("Apache-2.0", version), f"and labels: {labels}")
    demand("unknown" not in (labels["revision"], labels["created"]), "which say where it comes from")
    size = int(run("docker", "inspect", "--format", "{{.Size}}", IMAGE)) - int(
        run("docker", "inspect", "--format", "{{.Size}}", BASE)
    )
    row("the image", f"{size / 1e6:.0f} MB above its base, `{BASE}`")
    hardened = ("docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop=ALL", "--network=none")
    demand("ferry" in run(*hardened, IMAGE, "ferry", "--version"), "any command runs, not only roles")
    for user in ("1000680000:0", "4242:4242"):
        whole = (
            "docker",
            "run",
            "--rm",
            "--read-only",
            "--tmpfs",
            "/tmp:size=64m,mode=1777",
            "--cap-drop=ALL",
        )
        said = run(
            *whole,
            "--network=none",
            "--user",
            user,
            IMAGE,
            "sh",
            "-c",
            "id -un; ssh -G localhost | grep ^user",
        )
        demand(said.startswith("any\nuser any"), f"user {user}: has a name, as ssh wants it")
        row(f"the image as user {user}, read-only, `/tmp` of 64 MiB", "ssh and git run")
    for role in ROLES:
        done = subprocess.run(
            [*hardened, "--env", "CFP_DATA_BRANHC=x", IMAGE, role], capture_output=True, text=True
        )
        wanted = "did you mean CFP_DATA_BRANCH?"
        lines = [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]
        refused = done.returncode == 1 and any(wanted in line["event"] for line in lines)
        demand(refused, f"{role}: a wrong environment ends the start, in JSON")


def look_at_the_containers(stack: Stack) -> None:
    """
    Check that each container is what the compose file says.
    """
    for service in SERVICES:
        found = stack.container(service)
        host = found["HostConfig"]
        demand(
            host["ReadonlyRootfs"]
            and host["CapDrop"] == ["ALL"]
            and "no-new-privileges:true" in host["SecurityOpt"]
            and host["RestartPolicy"]["Name"] == "unless-stopped"
            and host["Memory"] > 0,
            f"{service} runs read-only, without rights, and within limits",
        )
        user = stack("exec", "-T", service, "id", "-u")
        demand(user != "0", f"{service} runs as user {user}")
    for role in ROLES:
        first = stack("exec", "-T", role, "cat", "/proc/1/cmdline").split("\0")[0]
        demand(first == "tini", f"{role}: tini is process 1")
        stack("exec", "-T", role, "ferry-health")
        demand(not writable(stack, role), f"{role}: nothing can be written beside the volume")


def writable(stack: Stack, role: str) -> str:
    """
    Return the places outside /tmp and the volume that *role* could write to.
    """
    return stack(
        "exec", "-T", role, "sh", "-c", "for d in / /opt/ferry /etc; do test -w $d && echo $d; done; :"
    )


def kill_each(stack: Stack) -> None:
    """
    Kill each container in turn, write where there is an API, and see everything arrive afterwards.
    """
    commits = [stack.write()]
    stack.await_commits(commits, "nothing killed")
    for service in SERVICES:
        commits.append(stack.write())  # may be on its way
        stack("kill", service)
        if service != "api":
            commits += [stack.write(), stack.write()]
        stack.up()
        commits.append(stack.write())
        stack.await_commits(commits, f"{service} killed")
    for service in ROLES:  # as a crash does it, so that Docker itself starts the container again
        before = stack.container(service)
        if os.geteuid() != 0:
            break
        os.kill(before["State"]["Pid"], 9)
        wait_until(
            lambda service=service, before=before: (
                (now := stack.container(service)["State"])["StartedAt"] != before["State"]["StartedAt"]
                and now.get("Health", {}).get("Status") == "healthy"
            ),
            f"{service} crashed: Docker started it again",
        )
        commits.append(stack.write())
        stack.await_commits(commits, f"{service} crashed")


def stop_in_mid_push(stack: Stack) -> None:
    """
    SIGTERM while a push runs: the push completes and the worker ends by itself.
    """
    hook = "/srv/git/data.git/hooks/pre-receive"
    stack("exec", "-T", "git-server", "sh", "-c", f"printf '#!/bin/sh\\nsleep 8\\n' >{hook}; chmod +x {hook}")
    commit = stack.write()
    status = "/api/_internal/push"
    stack.token = "demo-admin-token"
    wait_until(lambda: stack.get(status)[1]["remotes"]["origin"]["state"] == "pushing", "a slow push runs")
    stack.token = "demo"
    stack("stop", "worker")
    state = stack.container("worker")["State"]
    demand(
        commit in stack.arrived(), "the worker was stopped in the middle of a push, and the push completed"
    )
    demand(state["ExitCode"] == 0, "the worker ended by itself, with status 0")
    stack("exec", "-T", "git-server", "rm", hook)
    for role in ("api", "beat", "flower"):
        began = time.monotonic()
        stack("stop", role)
        found = stack.container(role)["State"]
        demand(
            found["ExitCode"] in (0, 143) and time.monotonic() - began < 9,
            f"{role} ended on SIGTERM by itself, with status {found['ExitCode']}",
        )


def run_production(demo: Stack) -> None:
    """
    The production file over the same volumes, with a key, tokens and a certificate of its own.
    """
    demo.up("git-server", "valkey")
    with tempfile.TemporaryDirectory() as directory:
        files = {name: Path(directory) / name for name in ("id_ed25519", "known_hosts")}
        for name, file in files.items():
            file.write_text(demo.key_file(name))
            file.chmod(0o444)  # nobody here can give it to user 10001; ssh minds only keys of its own
        Path(directory).chmod(0o755)
        demo("stop")
        https = free_port()
        token = "ana's own"
        stack = Stack(
            "ferry-image-test",
            *("-f", "docker-compose.yml", "-f", "compose.production.yml", "--profile", "demo"),
            *("--profile", "tls"),
            CFP_DATA_REMOTE=GIT_URL,
            CFP_API_TOKENS=f"ana:{hashlib.sha256(token.encode()).hexdigest()}",
            CFP_ADMIN_TOKEN="an operator's own",
            FLOWER_BASIC_AUTH="ops:flowers",
            FERRY_DEPLOY_KEY=str(files["id_ed25519"]),
            FERRY_KNOWN_HOSTS=str(files["known_hosts"]),
            FERRY_HTTPS=f"127.0.0.1:{https}",
            FERRY_HTTP=f"127.0.0.1:{free_port()}",
        )
        stack.up()
        stack.token = token
        stack.await_commits([stack.write()], "production file")
        stack.token = "demo"
        status, _ = stack.get("/api/sheets/people/records", body={"slug": "x", "name": "x"})
        demand(status == 401, "the demo's token is refused")
        wait_until(lambda: _answers(f"https://localhost:{https}/api/health"), "the proxy answers by TLS")
        demand('"uri":"/api/health"' in stack("logs", "tls"), "and writes an access log")
        stack("stop")
    row(
        "compose: the production file, its own key, tokens and TLS proxy",
        "commits arrive; the demo's token is refused",
    )


HOW_TO = ROOT / "docs" / "how-to" / "day-two-with-compose.md"
# The page's hosts are the demo's git server here.
HOSTS = {
    "git@backup.example.org:town/data.git": "ssh://ferry@git-server:2222/srv/git/backup.git",
    "git@new.example.org:town/data.git": "ssh://ferry@git-server:2222/srv/git/new.git",
}


def follow_the_how_tos(demo: Stack) -> None:
    """
    Type what the page for compose says, block by block, in a deployment of the production file.
    """
    demo.up("git-server", "valkey")
    keys = {"deploy_key": demo.key_file("id_ed25519"), "known_hosts": demo.key_file("known_hosts")}
    demo("stop")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        for file in ("docker-compose.yml", "compose.production.yml"):
            (place / file).write_text((ROOT / file).read_text())
        for file, content in keys.items():
            (place / file).write_text(content)
            (place / file).chmod(0o444)
        settings = {
            "COMPOSE_FILE": "docker-compose.yml:compose.production.yml",
            "COMPOSE_PROFILES": "demo",
            "COMPOSE_PROJECT_NAME": demo.project,
            "CFP_DATA_REMOTE": GIT_URL,
            "CFP_API_TOKENS": f"demo:{hashlib.sha256(b'demo').hexdigest()}",
            "CFP_ADMIN_TOKEN": "the-operators-own-token",
            "FLOWER_BASIC_AUTH": "ops:flowers",
            **{
                name: demo.env[name]
                for name in ("FERRY_IMAGE", "FERRY_DEMO_IMAGE", "FERRY_PORT", "FLOWER_PORT")
            },
        }
        (place / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
        # `.env` alone says what the commands work with.
        env = {name: value for name, value in demo.env.items() if name not in settings}
        _type("docker compose up --detach --wait", place, env)
        commits = [demo.write()]
        for title, blocks in _sections(HOW_TO):
            for block in blocks:
                _type(block, place, env)
            wait_until(demo.answers, "the API answers")
            commits.append(demo.write())
            say(f"how-to: {title}, typed as it stands")
            row(f"how-to with compose: {title}", "typed as it stands; nothing is lost")
        _type(
            "docker compose exec -T worker ferry push now; docker compose exec -T worker ferry verify",
            place,
            env,
        )
        status, answer = demo.get(f"/api/commits/{commits[0]}")
        demand(status == 200, f"the first commit is still there: {answer.get('push')}")
        _type("docker compose stop", place, env)


def _sections(page: Path) -> list[tuple[str, list[str]]]:
    """
    Return each section's title, and what is typed in it: blocks of sh, and those for other people's hands.
    """
    found = []
    for section in re.split(r"^## ", page.read_text(), flags=re.MULTILINE)[1:]:
        blocks = re.findall(
            r"^ *(?:```sh|<!-- image-test)\n(.*?)^ *(?:```|-->)$", section, re.MULTILINE | re.DOTALL
        )
        found.append((section.splitlines()[0], [textwrap.dedent(block) for block in blocks]))
    return found


def _type(block: str, place: Path, env: dict[str, str]) -> None:
    for theirs, ours in HOSTS.items():
        block = block.replace(theirs, ours)
    # Root may lack sudo. A push that is on its way and a check on a busy machine take a while.
    script = f'sudo() {{ "$@" || :; }}; set -eu\n{block}'
    tries = 1 if re.search(r"\bmv\b|>>|sed -i|ssh-keygen", block) else 6
    if tries == 1 and "docker compose up" in block:
        first, _, rest = block.rpartition("docker compose up")
        _type(first, place, env)
        _type(f"docker compose up{rest}", place, env)
        return
    again(lambda: run("bash", "-c", script, env=env, cwd=place), tries)


def _answers(url: str) -> bool:
    # The proxy's own authority signed for localhost, which nobody trusts.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:
            return answer.status == 200
    except OSError:
        return False


VISITOR = {"slug": "helm-test", "name": "helm test"}
# What the namespace gives on OpenShift, where the chart's ids are null.
OPENSHIFT = {
    "podSecurityContext": dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup", "fsGroupChangePolicy"))
}


def run_the_chart(stack: Stack, title: str, **further: object) -> None:
    """
    The chart's pod, with the git server and the broker of *stack*.
    """
    stack.up("git-server", "valkey")
    repository, _, tag = IMAGE.partition(":")
    values = {
        "image": {"repository": repository, "tag": tag},
        "valkey": {"enabled": False},
        "networkPolicy": {"egressPorts": [2222, 6379]},
        "service": {"port": 8000},  # no service stands between here
        "settings": {"CFP_PUSH_SWEEP_INTERVAL": 5},
        "secrets": {
            "CFP_DATA_REMOTE": GIT_URL,
            "CFP_REDIS_URL": "redis://valkey:6379/0",
            "CFP_API_TOKENS": f"demo:{hashlib.sha256(b'demo').hexdigest()}",
            "FLOWER_BASIC_AUTH": "ops:flowers",
        },
        "ssh": {
            "privateKey": stack.key_file("id_ed25519"),
            "knownHosts": stack.key_file("known_hosts"),
        },
        "test": {
            "write": {"enabled": True, "sheet": "people", "record": VISITOR, "existingSecret": "a-writer"},
        },
        **further,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        manifests = fetch(_helms_cache()).render("--values", file.name)
    pod = Pod(manifests, "town-ferry-0", run)
    pod.remove()
    try:
        network = f"{stack.project}_default"
        pod.start(
            *(
                "--network",
                network,
                "--network-alias",
                "town-ferry",
                "--publish",
                f"127.0.0.1:{stack.port}:8000",
            )
        )
        say("the chart's pod: the init container fetched the repository, and the others run")
        wait_until(lambda: not pod.failing_probes(), "the chart's pod: every probe succeeds")
        stack.token = "demo"
        stack.await_commits([stack.write()], "the chart's pod")
        for test in (each for each in manifests if each["kind"] == "Pod"):
            for container in test["spec"]["containers"]:
                command, *arguments = container["command"]
                run(
                    *("docker", "run", "--rm", "--network", network, "--read-only", "--env", "TOKEN=demo"),
                    *("--entrypoint", command),
                    *(container["image"], *arguments),
                )
        say("the chart's pod: `helm test` would succeed")
        demand(pod.stop("worker") == 0, "the chart's pod: the worker ends on SIGTERM with status 0")
        row(
            f"the chart's pod, {title} (user {pod.user})",
            "starts, pushes, passes its probes and `helm test`, ends",
        )
    except Failed:
        for container in pod.spec["containers"]:
            name = pod.container(container["name"])
            sys.stderr.write(f"--- {name}\n{run('docker', 'logs', '--tail', '20', name, check=False)}\n")
        raise
    finally:
        if not os.environ.get("KEEP"):
            pod.remove()


def render_the_chart(_: Stack) -> None:
    """
    Every combination of `helm/ferry/ci/` and every two of the chart's switches, against Kubernetes' schemas.
    """
    helm = fetch(_helms_cache())
    combinations = [("--values", str(path)) for path in sorted((CHART / "ci").glob("*-values.yaml"))]
    pairs = [
        ("--values", str(CHART / "ci" / "minimal-values.yaml"), "--set", f"{one},{other}")
        for one, other in itertools.combinations(SWITCHES, 2)
    ]
    for arguments in (*combinations, *pairs):
        for each in helm.render(*arguments):
            if each["apiVersion"].partition("/")[0] not in (
                "monitoring.coreos.com",
                "gateway.networking.k8s.io",
            ):
                for version in KUBERNETES:
                    kubernetes_validate.validate(each, version, strict=True)
    say(f"the chart: {len(combinations)} combinations and {len(pairs)} pairs of switches render")
    row(
        "the chart, rendered with each file of `helm/ferry/ci/` and with each pair of its switches",
        f"{len(combinations)} and {len(pairs)} renderings, valid for Kubernetes {', '.join(KUBERNETES)}",
    )


KUBERNETES = ("1.27", "1.32", "1.37")
SWITCHES = (
    "flower.enabled=false",
    "persistence.existingClaim=a-claim",
    "ingress.enabled=true,ingress.host=data.example.org",
    "httpRoute.enabled=true,httpRoute.parentRefs[0].name=public",
    "networkPolicy.enabled=false",
    "podDisruptionBudget.enabled=false",
    "serviceMonitor.enabled=true",
    "prometheusRule.enabled=true",
    "serviceAccount.create=true",
    "caBundle.pem=certificates",
    "existingSecret=settings",
    "ssh.existingSecret=key",
    "podSecurityContext.runAsUser=null",
)


def _helms_cache() -> Path:
    cache = ROOT / ".pytest_cache" / "d" / "helm"  # where pytest keeps it, too
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def run_compose(stack: Stack) -> None:
    """
    The demo, with each container killed in turn and the worker stopped in the middle of a push.
    """
    stack.down()
    stack.up()
    say("docker compose up --wait: everything is healthy")
    look_at_the_containers(stack)
    kill_each(stack)
    demand(stack.get("/api/tasks", port=stack.flower_port)[1], "Flower shows tasks")
    stop_in_mid_push(stack)
    row("compose: the demo, each container killed in turn and crashed", "every acknowledged commit arrived")


# As docs/how-to/run-replicas.md says it: the replicas' clone becomes the primary's.
PROMOTED = """\
volumes:
  data: {{external: true, name: {project}_replica}}
  replica: {{name: {project}_replica-2}}
"""


def run_replicas(stack: Stack) -> None:
    """
    A primary with two replicas, of which one is promoted when the primary is gone.
    """
    stack.down()
    port = free_port()
    ports = f"{port}-{port + 4}"  # the next ones are free as a rule
    env = {"FERRY_REPLICA_PORTS": ports, "CFP_DATA_FOLLOW_INTERVAL": "2"}
    primary = Stack(stack.project, "--profile", "replicas", **env)
    try:
        primary.up("--scale", "replica=2")
        commits = [primary.write()]
        for replica in _replicas(primary):
            _read_at_least(primary, replica, commits[-1])
        say("both replicas have what was written to the primary, when they are asked for it")
        primary("kill", "api", "worker")
        said = primary("exec", "-T", "replica", "ferry", "promote", "--reason", "the primary is gone")
        demand("this repository is the primary" in said, "a replica was promoted")
        primary("start", "api", "worker")
        wait_until(primary.answers, "the old primary is back")
        body = {"slug": "late", "name": "late"}
        wait_until(
            lambda: primary.get("/api/sheets/people/records", body=body)[1].get("code") == "not-the-primary",
            "the old primary takes no writes",
        )
        _over_the_promoted(primary, commits)
        row(
            "compose: two replicas, one promoted", "read at least what was written; the old primary is fenced"
        )
    finally:
        primary.down()
        run("docker", "volume", "rm", f"{stack.project}_replica", check=False)


def _over_the_promoted(primary: Stack, commits: list[str]) -> None:
    """
    Run the primary over the clone that was promoted, with new replicas.
    """
    primary("rm", "--stop", "--force", "replica", "api", "worker", "beat")
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        file.write(PROMOTED.format(project=primary.project))
        file.flush()
        files = ("--file", str(ROOT / "docker-compose.yml"), "--file", file.name, "--profile", "replicas")
        promoted = Stack(primary.project, *files, **primary.settings)
        promoted.up("--scale", "replica=2")
        commits.append(promoted.write())
        promoted.await_commits(commits, "the promoted one is the primary")
        for replica in _replicas(promoted):
            _read_at_least(promoted, replica, commits[-1])
        promoted.down()


def _replicas(stack: Stack) -> list[int]:
    """
    Return the ports of the replicas.
    """
    names = stack("ps", "--quiet", "replica").split()
    return [
        int(
            json.loads(run("docker", "inspect", name))[0]["NetworkSettings"]["Ports"]["8000/tcp"][0][
                "HostPort"
            ]
        )
        for name in names
    ]


def _read_at_least(stack: Stack, port: int, commit: str) -> None:
    """
    Demand that the replica at *port* answers with *commit* or a later one.
    """
    url = f"http://127.0.0.1:{port}/api/sheets/people/records?limit=1"

    def read() -> bool:
        request = urllib.request.Request(url, headers={"X-Ferry-At-Least": commit})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return bool(answer.headers["X-Ferry-Commit"])
        except OSError:
            return False  # 503: not here yet

    wait_until(read, f"the replica at {port} has {commit[:12]}")


def run_the_charts_pod(stack: Stack) -> None:
    """
    The chart's pod over a new repository, with the chart's user ids and with those that OpenShift gives.
    """
    for title, values in (("as Kubernetes runs it", {}), ("as OpenShift runs it", OPENSHIFT)):
        stack.down()
        run_the_chart(stack, title, **values)


PARTS: dict[str, Callable[[Stack], None]] = {
    "chart": render_the_chart,
    "image": look_at_the_image,
    "compose": run_compose,
    "replicas": run_replicas,
    "production": run_production,
    "how-to": follow_the_how_tos,
    "pod": run_the_charts_pod,
}


def main(parts: list[str]) -> None:
    """
    Do all of it, or *parts*; status 1 and one reason where something is not as it should be.
    """
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"image-test: no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if subprocess.run(["docker", "info"], capture_output=True).returncode:
        sys.exit("image-test: `docker info` finds no Docker engine")
    stack = Stack("ferry-image-test")
    try:
        build()
        for part in parts or PARTS:
            PARTS[part](stack)
    except Failed as exc:
        # Ferry's own first: the git server tells of each connection at length.
        for services in (ROLES, ("valkey", "git-server")):
            sys.stderr.write(stack("logs", "--no-color", "--tail", "40", *services, check=False) + "\n")
        sys.exit(f"\nimage-test failed: {exc}")
    finally:
        if not os.environ.get("KEEP"):
            stack.down()
    say("all of it works")


if __name__ == "__main__":
    main(sys.argv[1:])
