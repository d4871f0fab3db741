"""
The Helm chart, rendered by a real Helm in every combination that `helm/ferry/ci/` holds.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from ferry.worker.settings import Settings
from tests.deployment.cluster import cluster
from tests.deployment.helm import CHART, ROOT
from tests.deployment.schema import SCHEMA, as_text, with_hints

COMBINATIONS = sorted((CHART / "ci").glob("*-values.yaml"))
# A release is one repository.
KNOWN = {spec.metadata["variable"] for spec in fields(Settings)} - {"CFP_DATA_REPOSITORIES"}
# What the chart sets by itself, beside what `settings` and `secrets` take.
OF_THE_CHART = {"CFP_DATA_REPO_PATH", "CFP_SSH_KEY_PATH", "CFP_SSH_KNOWN_HOSTS", "CFP_HTTPS_TOKEN_PATH"}
NOT_OF_FERRY = {"FLOWER_BASIC_AUTH"}
# repr=False marks what may hold a secret.
SECRETS = {spec.metadata["variable"] for spec in fields(Settings) if not spec.repr} | NOT_OF_FERRY
BROKER = {"CFP_REDIS_URL", "CFP_BROKER_URL"}
REMOTES = {"CFP_DATA_REMOTE", "CFP_DATA_MIRRORS"}
WEBHOOKS = {"CFP_WEBHOOKS", "CFP_WEBHOOKS_SECRET"}
# What each role works with.
MAY_HAVE = {
    "init": BROKER | REMOTES,
    "api": SECRETS - NOT_OF_FERRY,
    "worker": BROKER | REMOTES | WEBHOOKS | {"SENTRY_DSN", "SENTRY_AUTH_TOKEN"},
    "beat": BROKER,
    "flower": BROKER | NOT_OF_FERRY,
    "replica": SECRETS - NOT_OF_FERRY - BROKER - WEBHOOKS - {"CFP_DATA_MIRRORS"},
}
# Flower has a directory beside the repository.
MOUNTS = {
    **{role: {"mountPath": "/srv/ferry", "readOnly": False} for role in ("init", "api", "worker", "replica")},
    "beat": {"mountPath": "/srv/ferry", "readOnly": True},
    "flower": {"mountPath": "/var/lib/flower", "subPath": "flower"},
}
# The Prometheus operator's and the Gateway API's, whose schemas Kubernetes does not have.
CUSTOM = {"ServiceMonitor", "PrometheusRule", "HTTPRoute"}

pytestmark = pytest.mark.usefixtures("helm")


# Of the module: what is asked of one combination follows each other, and its manifests are rendered once.
@pytest.fixture(scope="module", params=COMBINATIONS, ids=lambda path: path.name.removesuffix("-values.yaml"))
def combination(request) -> Path:
    return request.param


@pytest.fixture(scope="module")
def manifests(helm, combination):
    # The linter holds the values against the schema, which takes longer than to render them.
    return helm.render("--values", str(combination), "--skip-schema-validation")


@pytest.fixture
def values(combination):
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    return {**defaults, **yaml.safe_load(combination.read_text())}


def of_kind(manifests, kind) -> list[dict]:
    """
    Return the manifests of one kind, by name: the primary's is before those of what stands beside it.
    """
    found = (each for each in manifests if each["kind"] == kind)
    return sorted(found, key=lambda each: each.get("metadata", {}).get("name", ""))


def pods(manifests) -> Iterator[tuple[dict, dict, dict]]:
    """
    Yield each manifest that makes pods, with the pod's metadata and spec.
    """
    for each in manifests:
        if each["kind"] == "Pod":
            yield each, each["metadata"], each["spec"]
        elif "template" in each.get("spec", {}):
            yield each, each["spec"]["template"]["metadata"], each["spec"]["template"]["spec"]


def containers(manifests) -> Iterator[dict]:
    for _, _, spec in pods(manifests):
        yield from (*spec.get("initContainers", []), *spec["containers"])


def strings(value) -> Iterator[str]:
    match value:
        case dict():
            for key, each in value.items():
                yield from (key, *strings(each))
        case list():
            for each in value:
                yield from strings(each)
        case _:
            yield str(value)


def environment(manifests, container) -> dict[str, str]:
    """
    Return what *container* finds in its environment, as far as the chart makes it.
    """
    found = {}
    for source in container.get("envFrom", []):  # of which a user's own is not here
        ((how, reference),) = source.items()
        kind, part = {"configMapRef": ("ConfigMap", "data"), "secretRef": ("Secret", "stringData")}[how]
        for each in of_kind(manifests, kind):
            if each["metadata"]["name"] == reference["name"]:
                found |= each[part]
    return found | {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


def secrets_of(manifests, container) -> set[str]:
    """
    Return the secrets that *container* is given, by name, whoever keeps them.
    """
    references = [each["valueFrom"] for each in container.get("env", []) if "valueFrom" in each]
    kept_elsewhere = {each["secretKeyRef"]["key"] for each in references if "secretKeyRef" in each} & SECRETS
    return kept_elsewhere | (set(environment(manifests, container)) & SECRETS)


# --- Every combination ---


def test_it_lints_strictly(helm, combination):
    done = helm("lint", "--strict", str(CHART), "--values", str(combination))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def validate():
    """
    Check a manifest against the schema of a version of Kubernetes; the schemas, of megabytes, are read once.
    """
    import kubernetes_validate  # here, because it takes a second, in every process that collects tests

    with pytest.MonkeyPatch.context() as patch:
        read = kubernetes_validate.utils.schema_contents
        patch.setattr(kubernetes_validate.utils, "schema_contents", functools.cache(read))
        yield functools.partial(kubernetes_validate.validate, strict=True)


@pytest.mark.parametrize("kubernetes", ["1.27", "1.32", "1.37"])
def test_kubernetes_takes_it(manifests, kubernetes, validate):
    for each in manifests:
        if each["kind"] not in CUSTOM:
            validate(each, kubernetes)


def test_secrets_stand_in_secrets_alone(manifests, values):
    """
    Not in a ConfigMap, an argument, an annotation or an environment variable of a pod's own.
    """
    hidden = {value for name, value in values["secrets"].items() if name != "CFP_REDIS_URL" or "@" in value}
    hidden |= {values["ssh"].get("privateKey", ""), values.get("httpsToken", {}).get("token", "")} - {""}
    elsewhere = [each for each in manifests if each["kind"] != "Secret"]
    # "secret-" marks what is one, wherever it may have been taken to pieces.
    found = {text for text in strings(elsewhere) if "secret-" in text or any(each in text for each in hidden)}
    assert found == set()


def test_every_container_is_restricted(manifests):
    """
    https://kubernetes.io/docs/concepts/security/pod-security-standards/, and a read-only root beyond it.
    """
    for _, _, spec in pods(manifests):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"].get("runAsUser", 10001) > 0  # OpenShift chooses by itself
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & set(spec)
        assert {kind for volume in spec.get("volumes", []) for kind in set(volume) - {"name"}} <= {
            "configMap", "emptyDir", "persistentVolumeClaim", "secret",
        }  # fmt: skip
    for each in containers(manifests):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }, each["name"]


def test_every_container_has_limits_and_probes(manifests):
    for each in containers(manifests):
        assert each["resources"]["limits"]["memory"], each["name"]
        assert each["resources"]["requests"]["cpu"], each["name"]
    for owner, _, spec in pods(manifests):
        if owner["kind"] != "Pod":
            assert [each["name"] for each in spec["containers"] if "livenessProbe" not in each] == []


def test_every_volume_is_used_and_every_mount_defined(manifests):
    for owner, _, spec in pods(manifests):
        defined = {volume["name"] for volume in spec.get("volumes", [])}
        defined |= {claim["metadata"]["name"] for claim in owner["spec"].get("volumeClaimTemplates", [])}
        all_of_them = (*spec.get("initContainers", []), *spec["containers"])
        used = {mount["name"] for each in all_of_them for mount in each.get("volumeMounts", [])}
        assert used == defined


def test_no_two_containers_share_a_temporary_directory(manifests):
    """
    Each notes its role there, and keeps its ssh connections.
    """
    workload = of_kind(manifests, "StatefulSet")[0]
    spec = workload["spec"]["template"]["spec"]
    mounts = [
        mount["name"]
        for each in (*spec["initContainers"], *spec["containers"])
        for mount in each["volumeMounts"]
        if mount["mountPath"] == "/tmp"
    ]
    assert len(mounts) == len(set(mounts)) == len(spec["containers"]) + 1


def test_replicas_read_from_clones_of_their_own(helm):
    """
    One container each, of the API alone, with a Service of their own; they grow between two bounds.
    """
    manifests = helm.render("--values", str(CHART / "ci" / "replicas-values.yaml"))
    primary, replica = of_kind(manifests, "StatefulSet")
    [container] = replica["spec"]["template"]["spec"]["containers"]
    found = environment(manifests, container)

    assert (found["CFP_API_ROLE"], found["CFP_API_PRIMARY_URL"]) == ("replica", "http://town-ferry:80")
    assert found["CFP_DATA_FOLLOW_INTERVAL"] == "30"
    assert "CFP_API_ROLE" not in environment(manifests, primary["spec"]["template"]["spec"]["containers"][0])
    assert container["args"] == ["api"]
    assert "replicas" not in replica["spec"], "the autoscaler counts them"
    [scaler] = of_kind(manifests, "HorizontalPodAutoscaler")
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 4)
    assert scaler["spec"]["scaleTargetRef"]["name"] == replica["metadata"]["name"]
    selected = {
        each["metadata"]["name"]: each["spec"]["selector"]["app.kubernetes.io/component"]
        for each in of_kind(manifests, "Service")
    }
    assert (selected["town-ferry"], selected["town-ferry-read"]) == ("ferry", "replica")
    labels = replica["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/component"] == "replica"
    assert replica["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == "data"


def test_a_replica_without_a_remote_is_refused(helm):
    refused = helm.refuses("--set", "replicas.enabled=true,persistence.existingClaim=x,flower.enabled=false")
    assert "replicas.enabled: a replica clones secrets.CFP_DATA_REMOTE" in refused


def of_ferry(manifests) -> list[dict]:
    """
    Return the containers of the pod that serves the repository.
    """
    workload = of_kind(manifests, "StatefulSet")[0]
    spec = workload["spec"]["template"]["spec"]
    return [*spec["initContainers"], *spec["containers"]]


def test_each_role_is_given_the_secrets_that_it_works_with(manifests, values):
    """
    And no others, whether the chart keeps them or its user: beat and Flower have no business with tokens.
    """
    given = {each["name"]: secrets_of(manifests, each) for each in of_ferry(manifests)}
    if values.get("existingSecret"):
        assert given == {role: MAY_HAVE[role] for role in given}
    else:
        known = set(values["secrets"]) | {"CFP_REDIS_URL"}  # the chart's own Valkey
        assert given == {role: MAY_HAVE[role] & known for role in given}
    for each in of_kind(manifests, "Secret"):  # of which each container takes its own, whole
        role = each["metadata"]["name"].rpartition("-")[2]
        of_no_role = {"ssh", "https", "valkey"}
        assert role in of_no_role or set(each["stringData"]) <= {**MAY_HAVE, "broker": BROKER}[role]


def test_each_role_has_the_repository_as_far_as_it_needs_it(manifests):
    mounts = {
        each["name"]: {key: value for key, value in mount.items() if key != "name"}
        for each in of_ferry(manifests)
        for mount in each["volumeMounts"]
        if mount["name"] == "data"
    }
    assert mounts == {name: MOUNTS[name] for name in (each["name"] for each in of_ferry(manifests))}


def test_files_that_settings_name_are_mounted(manifests):
    """
    For those who talk to the remotes; beat and Flower have no business with keys.
    """
    workload = of_kind(manifests, "StatefulSet")[0]
    volumes = {volume["name"]: volume for volume in workload["spec"]["template"]["spec"]["volumes"]}
    for each in of_ferry(manifests):
        there = {
            f"{mount['mountPath']}/{item['path']}"
            for mount in each["volumeMounts"]
            if mount["name"] in ("ssh", "https")
            for item in volumes[mount["name"]]["secret"]["items"]
        }
        named = {
            value
            for name, value in environment(manifests, each).items()
            if name in OF_THE_CHART - {"CFP_DATA_REPO_PATH"}
        }
        assert there == named
        assert not (there and each["name"] in ("beat", "flower"))


def test_ferry_starts_with_what_the_chart_sets(manifests, values):
    """
    Every CFP_* name is a setting, and together they are ones that Ferry takes.
    """
    elsewhere = {}
    if values.get("existingSecret"):  # its contents are the user's; this is the least there must be
        elsewhere = {"CFP_DATA_REMOTE": "git@git.example.org:town/data.git"}
    workload = of_kind(manifests, "StatefulSet")[0]
    spec = workload["spec"]["template"]["spec"]
    for each in of_ferry(manifests):
        env = environment(manifests, each)
        assert {name for name in env if name.startswith("CFP_")} <= KNOWN
        settings = Settings.from_env({**env, **elsewhere})
        assert spec["terminationGracePeriodSeconds"] >= settings.push_timeout_s + 20


def test_services_and_policies_find_their_pods(manifests):
    labels = [
        (metadata["labels"], {port["name"] for each in spec["containers"] for port in each.get("ports", [])})
        for owner, metadata, spec in pods(manifests)
        if owner["kind"] != "Pod"
    ]
    for each in of_kind(manifests, "Service"):
        (ports,) = (ports for there, ports in labels if each["spec"]["selector"].items() <= there.items())
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports
    for each in (*of_kind(manifests, "NetworkPolicy"), *of_kind(manifests, "PodDisruptionBudget")):
        selector = each["spec"].get("podSelector") or each["spec"]["selector"]
        assert sum(selector["matchLabels"].items() <= there.items() for there, _ in labels) == 1
    for each in of_kind(manifests, "ServiceMonitor"):
        wanted = each["spec"]["selector"]["matchLabels"].items()
        (service,) = (s for s in of_kind(manifests, "Service") if wanted <= s["metadata"]["labels"].items())
        assert each["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_helm_test_asks_the_service(manifests):
    (pod,) = of_kind(manifests, "Pod")
    urls = [each["command"][2] for each in pod["spec"]["containers"]]
    service = of_kind(manifests, "Service")[0]
    name = service["metadata"]["name"]
    assert all(url.startswith(f"http://{name}:{service['spec']['ports'][0]['port']}/") for url in urls)


# --- The chart as a whole ---


def test_the_notes_say_what_is_missing(helm, tmp_path):
    """
    `helm template` prints no notes and `helm install` wants a cluster: here they are rendered as a manifest.
    """
    chart = shutil.copytree(CHART, tmp_path / "ferry")
    (chart / "templates" / "NOTES.txt").rename(chart / "NOTES.txt")
    manifest = '{kind: Notes, text: {{ tpl (.Files.Get "NOTES.txt") . | toJson }}}'
    (chart / "templates" / "notes.yaml").write_text(manifest)

    @functools.cache
    def notes(name):
        done = helm("template", "town", str(chart), "--values", str(CHART / "ci" / f"{name}-values.yaml"))
        (found,) = of_kind([each for each in yaml.safe_load_all(done.stdout) if each], "Notes")
        return found["text"]

    for words in ("Nobody can write", "Nobody is paged", "no key and no token"):
        assert words in notes("minimal")
        assert words not in notes("made-secrets")
    assert "exec town-ferry-0 -c api -- ferry doctor" in notes("minimal")


def test_releases_share_a_redis_and_nothing_else(helm):
    values = str(CHART / "ci" / "shared-redis-values.yaml")
    names = [
        {
            (each["kind"], each["metadata"]["name"])
            for each in helm.render("--values", values, release=release)
        }
        for release in ("town", "village")
    ]
    assert names[0] & names[1] == set()


def test_the_repository_is_served_by_one_pod(helm):
    """
    A second one would have a volume, and so a repository, of its own.
    """
    manifests = helm.render("--values", str(CHART / "ci" / "minimal-values.yaml"))
    workload = of_kind(manifests, "StatefulSet")[0]
    assert workload["spec"]["replicas"] == 1
    assert [each["name"] for each in workload["spec"]["template"]["spec"]["containers"]] == [
        "api", "worker", "beat", "flower",
    ]  # fmt: skip


def test_changed_settings_make_another_pod(helm):
    values = ("--values", str(CHART / "ci" / "minimal-values.yaml"))

    def template(*arguments):
        workload = of_kind(helm.render(*values, *arguments), "StatefulSet")[0]
        return workload["spec"]["template"]

    unchanged = template()
    assert template() == unchanged
    assert template("--set", "settings.CFP_PUSH_MIN_INTERVAL=5") != unchanged
    assert template("--set", "secrets.CFP_ADMIN_TOKEN=another") != unchanged


USER = ("--set", "secrets.FLOWER_BASIC_AUTH=ops:x")
REMOTE = ("--set", "secrets.CFP_DATA_REMOTE=git@git.example.org:a/b.git", *USER)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no remote to fetch the repository from"),
        ((*REMOTE, "--set", "valkey.enabled=false"), "no broker"),
        (REMOTE[:2], "secrets.FLOWER_BASIC_AUTH: required"),
        ((*REMOTE, "--set", "secrets.FLOWER_BASIC_AUTH="), "FLOWER_BASIC_AUTH"),
        ((*REMOTE, "--set", "ingress.paths={}"), "ingress"),
        ((*REMOTE, "--set", "ssh.privateKey=x"), "ssh.knownHosts: required"),
        ((*REMOTE, "--set", "ingress.enabled=true"), "ingress.host: required"),
        ((*REMOTE, "--set", "httpRoute.enabled=true"), "httpRoute.parentRefs: required"),
        ((*REMOTE, "--set", "settings.CFP_DATA_BRANHC=x"), "CFP_DATA_BRANHC"),
        ((*REMOTE, "--set", "settings.CFP_ADMIN_TOKEN=x"), "CFP_ADMIN_TOKEN"),
        ((*REMOTE, "--set", "settings.CFP_PUSH_TIMEOUT=0"), "CFP_PUSH_TIMEOUT"),
        ((*REMOTE, "--set", "settings.CFP_PUSH_RESCUE=off"), "CFP_PUSH_RESCUE"),
        ((*REMOTE, "--set", "secrets.CFP_API_TOKENS=ana:my-token"), "CFP_API_TOKENS"),
        ((*REMOTE, "--set", "replicas=2"), "replicas"),
        ((*REMOTE, "--set", "api.replicas=2"), "replicas"),
        ((*REMOTE, "--set", "ssh.knownHosts=x"), "ssh.privateKey: required"),
        (
            (*REMOTE, "--set", "ssh.existingSecret=a,ssh.privateKey=b,ssh.knownHosts=c"),
            "ssh.existingSecret and",
        ),
        ((*REMOTE, "--set", "httpsToken.existingSecret=a,httpsToken.token=b"), "set one of them"),
        ((*REMOTE, "--set", "ingress.enabled=true,ingress.host=https://data.example.org"), "ingress"),
        ((*REMOTE, "--set", "image.repository=registry.example.org/ferry:1.0"), "image"),
        (
            ("--set", "secrets.CFP_DATA_REMOTE=ssh://git@h:2222/x.git", *USER),
            "lacks 2222, the port of secrets.CFP_DATA_REMOTE",
        ),
        (
            (*REMOTE, "--set", "valkey.enabled=false,secrets.CFP_REDIS_URL=redis://redis.internal/0"),
            "lacks 6379, the port of secrets.CFP_REDIS_URL",
        ),
    ],
)
def test_what_would_not_work_is_refused_by_name(helm, arguments, words):
    if "CFP_PUSH_RESCUE" in words:  # Helm makes false of a bare off in a file, and a string of it here
        arguments = (*REMOTE, "--set-json", "settings.CFP_PUSH_RESCUE=false")
    assert words in helm.refuses(*arguments)


MINIMAL = ("--values", str(CHART / "ci" / "minimal-values.yaml"))


def test_valkey_asks_for_a_password_that_ferry_is_given(helm):
    """
    Made where none is given; it stands in Secrets alone, and in no argument.
    """
    found = [helm.render(*MINIMAL, "--set", f"valkey.password={given}") for given in ("", "", "p@ss#w/rd")]
    made = []
    for manifests in found:
        kept = {each["metadata"]["name"]: each["stringData"] for each in of_kind(manifests, "Secret")}
        password = kept["town-ferry-valkey"]["password"]
        assert kept["town-ferry-valkey"]["auth.conf"] == f'requirepass "{password}"\n'
        url = urlsplit(kept["town-ferry-broker"]["CFP_REDIS_URL"])
        assert (unquote(url.password or ""), url.hostname) == (password, "town-ferry-valkey")
        assert password not in str([each for each in manifests if each["kind"] != "Secret"])
        assert all(
            environment(manifests, each)["CFP_REDIS_URL"] == url.geturl() for each in of_ferry(manifests)
        )
        made.append(password)
    assert len(set(made)) == 3
    assert made[2] == "p@ss#w/rd"


def test_an_upgrade_keeps_the_password_of_valkey(helm, tmp_path):
    """
    One that stands in the cluster already is found there.
    """
    kept = {"town-ferry-valkey": {"password": "made-at-the-first-installation"}}
    with cluster(tmp_path, kept) as kubeconfig:
        found = [
            {each["metadata"]["name"]: each["stringData"] for each in of_kind(manifests, "Secret")}
            for release in ("town", "village")
            for manifests in [
                helm.render(*MINIMAL, "--dry-run=server", "--kubeconfig", str(kubeconfig), release=release)
            ]
        ]
    assert found[0]["town-ferry-valkey"]["password"] == "made-at-the-first-installation"
    assert found[1]["village-ferry-valkey"]["password"] != "made-at-the-first-installation"
    assert "made-at-the-first" in found[0]["town-ferry-broker"]["CFP_REDIS_URL"]


def test_what_a_platform_asks_for_is_there(helm):
    manifests = helm.render("--values", str(CHART / "ci" / "platform-values.yaml"))
    workload = of_kind(manifests, "StatefulSet")[0]
    template, claim = workload["spec"]["template"], workload["spec"]["volumeClaimTemplates"][0]
    assert {each["metadata"]["name"].partition("-")[0] for each in manifests} == {"records"}
    assert template["metadata"]["annotations"]["example.org/team"] == "data"
    assert template["metadata"]["labels"]["example.org/cost-centre"] == "7"
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert claim["metadata"]["annotations"] == {"example.org/backup": "daily"}
    assert (
        template["spec"]["serviceAccountName"] == of_kind(manifests, "ServiceAccount")[0]["metadata"]["name"]
    )
    assert template["spec"]["priorityClassName"] == "important"
    assert template["spec"]["topologySpreadConstraints"]
    assert of_kind(manifests, "Service")[0]["metadata"]["annotations"] == {"example.org/internal": "true"}
    for each in of_ferry(manifests):
        env, talks_to_remotes = environment(manifests, each), each["name"] in ("init", "api", "worker")
        assert each["image"].partition("@")[2].startswith("sha256:")
        assert env["https_proxy"] == env["HTTPS_PROXY"] == "http://proxy.internal.example.org:3128"
        assert env["GIT_SSL_CAINFO"] == env["SSL_CERT_FILE"] == "/tmp/ferry-ca.crt"
        assert env["FERRY_CA_BUNDLE"] in {f"{mount['mountPath']}/ca.crt" for mount in each["volumeMounts"]}
        assert ("TZ" in env) is talks_to_remotes
        assert ({"secretRef": {"name": "more-settings"}} in each["envFrom"]) is talks_to_remotes
        assert ("tokens" in {mount["name"] for mount in each["volumeMounts"]}) is talks_to_remotes
        assert ("FLOWER_URL_PREFIX" in env) is (each["name"] == "flower")


def test_openshift_chooses_ids_by_itself(helm):
    manifests = helm.render("--values", str(CHART / "ci" / "openshift-values.yaml"))
    for owner, _, spec in pods(manifests):
        assert set(spec["securityContext"]) == {"runAsNonRoot", "seccompProfile"}, owner["metadata"]["name"]
    (policy,) = (e for e in of_kind(manifests, "NetworkPolicy") if e["metadata"]["name"] == "town-ferry")
    assert {port["port"] for port in policy["spec"]["egress"][0]["ports"]} == {53, 5353}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("persistance.size=1Gi", "did you mean persistence?"),
        ("image.repo=x", "image"),
        ("imgae.tag=x", "did you mean image?"),
        ("nodeselector.a=b", "did you mean nodeSelector?"),
        ("settings.CFP_DATA_BRANHC=x", "did you mean CFP_DATA_BRANCH?"),
        ("settings.CFP_PUSH_TIMEOUTS=3", "did you mean CFP_PUSH_TIMEOUT?"),
        ("secrets.SENTRY_DNS=x", "did you mean SENTRY_DSN?"),
        ("settings.CFP_ADMIN_TOKEN=x", "use secrets"),
        ("replicaCount=2", "a second pod would have a volume, and so a repository, of its own"),
        ("api.replicas=2", "use api.workers"),
        ("env.A=b", "use extraEnv"),
        ("proxy.https=http://me:secret@proxy:3128", "give it by extraEnvFrom"),
        ("test.write.enabled=true", "test.write: needs sheet"),
        ("settings.OTEL_EXPORTER_OTLP_ENDPOINT=http://traces:4318", "lacks 4318, the port of settings.OTEL"),
        ("image.digest=latest", "image"),
    ],
)
def test_a_refusal_says_what_was_meant(helm, value, words):
    assert words in helm.refuses(*MINIMAL, "--set", value)


def test_the_schemas_hints_are_those_of_its_names():
    """
    And none of them stands in the way of a name that is known.
    """
    schema = json.loads(SCHEMA.read_text())
    assert SCHEMA.read_text() == as_text(with_hints(schema)) + "\n", "run python -m tests.deployment.schema"

    def check(node):
        for name, each in node.get("properties", {}).items():
            assert not any(re.search(pattern, name) for pattern in node.get("patternProperties", {})), name
            check(each)

    check(schema)


def test_the_chart_takes_every_setting():
    """
    A setting that is added to Ferry is one that the chart must take, in one of the two places.
    """
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    open_ones, hidden = (set(schema[part]["properties"]) for part in ("settings", "secrets"))

    assert open_ones & hidden == set()
    traces = {name for name in open_ones if name.startswith("OTEL_")}
    assert (open_ones | hidden | OF_THE_CHART) - traces == KNOWN | NOT_OF_FERRY
    assert hidden == SECRETS


def test_every_object_of_the_schema_is_closed():
    def open_objects(node, path="values"):
        if isinstance(node, dict):
            if "properties" in node and node.get("additionalProperties") is not False:
                yield path
            for key, each in node.items():
                yield from open_objects(each, f"{path}.{key}")

    assert list(open_objects(json.loads((CHART / "values.schema.json").read_text()))) == []


def test_every_value_has_a_schema_and_a_place_in_the_reference():
    reference = (ROOT / "docs" / "reference" / "chart.md").read_text()
    schema = json.loads((CHART / "values.schema.json").read_text())

    def paths(node, properties, path=""):
        for key, value in node.items():
            assert key in properties, f"{path}{key} is not in the schema"
            if isinstance(value, dict) and value and "properties" in properties[key]:
                yield from paths(value, properties[key]["properties"], f"{path}{key}.")
            else:
                yield f"{path}{key}"

    named = set(re.findall(r"`([A-Za-z.]+)`", reference))
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(paths(values, schema["properties"])) - named == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ("secrets.CFP_DATA_REMOTE=ssh://git@h:2222/x.git,networkPolicy.egressPorts={2222,443}",),
        ("secrets.CFP_DATA_REMOTE=https://h:8443/x.git,networkPolicy.egressPorts={8443}",),
        ("secrets.CFP_DATA_REMOTE=ssh://git@h:2222/x.git,networkPolicy.enabled=false",),
        (
            "secrets.CFP_DATA_REMOTE=git@h:x.git,valkey.enabled=false,secrets.CFP_REDIS_URL=redis://a-valkey:6379/0",
        ),
        ("secrets.CFP_DATA_REMOTE=git@h:x.git,image.repository=registry.example.org:5000/town/ferry",),
    ],
)
def test_a_way_out_that_is_open_is_taken(helm, arguments):
    assert helm.render("--set", *arguments, *USER)


def test_a_broker_that_goes_makes_a_new_pod(helm):
    def pod(*arguments):
        found = helm.render("--set", "existingSecret=s", *arguments)
        return next(
            each for each in found if each["kind"] == "StatefulSet" and "0" not in each["metadata"]["name"]
        )["spec"]["template"]

    with_valkey, without = pod(), pod("--set", "valkey.enabled=false")
    name = "checksum/settings"
    assert with_valkey["metadata"]["annotations"][name] != without["metadata"]["annotations"][name]


def test_the_pod_is_given_as_long_as_its_api(helm):
    found = helm.render(*REMOTE, "--set", "settings.CFP_PUSH_TIMEOUT=1")
    graces = [
        each["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        for each in found
        if each["kind"] == "StatefulSet"
    ]
    assert 40 in graces


def _documented() -> list[list[str]]:
    """
    Return each `helm install` and `helm upgrade` that a page tells to type.
    """
    pages = [ROOT / "docs/operations/deploy.md", ROOT / "docs/how-to/upgrade.md"]
    text = "\n".join(page.read_text() for page in pages).replace("\\\n", " ")
    return [
        shlex.split(line) for line in re.findall(r"^ *helm -n \S+ (?:install|upgrade) .*", text, re.MULTILINE)
    ]


@pytest.mark.parametrize("command", _documented(), ids=lambda command: " ".join(command[3:5]))
def test_the_chart_takes_what_the_pages_tell_to_type(helm, command, tmp_path):
    _, _, namespace, verb, release, chart, *options = command
    values = tmp_path / "values.yaml"
    values.write_text("existingSecret: settings\nssh: {existingSecret: key}\n")
    if "--reset-then-reuse-values" in options:
        options[options.index("--reset-then-reuse-values")] = f"--values={values}"
    options = [str(values) if option == "village.yaml" else option for option in options]

    kinds = {each["kind"] for each in helm.render(*options, release=release, namespace=namespace)}

    assert (verb, chart) in (("install", "helm/ferry"), ("upgrade", "helm/ferry"))
    assert {"StatefulSet", "Service"} <= kinds


def test_the_chart_and_ferry_have_one_version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f'version = "{chart["appVersion"]}"' in (ROOT / "pyproject.toml").read_text()


def test_an_alert_has_the_age_that_is_chosen(helm):
    (rules,) = of_kind(helm.render("--values", str(CHART / "ci" / "ingress-values.yaml")), "PrometheusRule")
    expressions = {rule["alert"]: rule["expr"] for rule in rules["spec"]["groups"][0]["rules"]}
    assert ") > 600 unless" in expressions["FerryCommitsDoNotArrive"]
