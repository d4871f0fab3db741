"""
The compose files, as far as they can be read: what `make image-test` then runs.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import fields

import pytest
import yaml

from ferry.worker.settings import Settings, Token
from tests.deployment.helm import ROOT

# The file serves one repository.
KNOWN = {spec.metadata["variable"] for spec in fields(Settings)} - {"CFP_DATA_REPOSITORIES"}
FERRY = ("api", "worker", "beat", "flower")


class _Loader(yaml.SafeLoader):
    """
    YAML with Compose's `!override`, which replaces a list instead of adding to it.
    """


_Loader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))


def read(name):
    return yaml.load((ROOT / name).read_text(), _Loader)  # noqa: S506 - a safe loader's child


def default(text):
    """
    Return *text* as Compose reads it where no variable is set.
    """
    return re.sub(r"\$\{\w+(?::-([^}]*)|:[?+][^}]*)?\}", lambda found: found[1] or "", str(text or ""))


@pytest.fixture
def demo():
    return read("docker-compose.yml")["services"]


@pytest.fixture
def production():
    return read("compose.production.yml")["services"]


# repr=False marks what may hold a secret; files of keys and tokens come beside them.
SECRETS = {spec.metadata["variable"] for spec in fields(Settings) if not spec.repr}
BROKER = {"CFP_REDIS_URL", "CFP_BROKER_URL"}
KEYS = {"CFP_SSH_KEY_PATH", "CFP_SSH_KNOWN_HOSTS", "CFP_HTTPS_TOKEN_PATH"}
REMOTES = {"CFP_DATA_REMOTE", "CFP_DATA_MIRRORS", "SENTRY_DSN", "SENTRY_AUTH_TOKEN"} | KEYS
WEBHOOKS = {"CFP_WEBHOOKS", "CFP_WEBHOOKS_SECRET"}
# What each role works with, of what not every one is given.
MAY_HAVE = {
    "api": SECRETS | KEYS,
    "worker": BROKER | REMOTES | WEBHOOKS,
    "beat": BROKER,
    "flower": BROKER | {"FLOWER_BASIC_AUTH"},
}
GUARDED = SECRETS | KEYS | {"FLOWER_BASIC_AUTH"}


def test_ferry_takes_the_demos_environment(demo):
    for role in FERRY:
        env = {name: default(value) for name, value in demo[role]["environment"].items()}
        settings = Settings.from_env(env)
        tokens = {"demo": Token(hashlib.sha256(b"demo").hexdigest())} if role == "api" else {}
        assert settings.api_tokens == tokens


def test_each_role_is_given_the_secrets_that_it_works_with(demo, production):
    """
    And no others: beat and Flower have no business with keys and tokens.
    """
    for role in FERRY:
        env = {**demo[role]["environment"], **production[role]["environment"]}
        assert set(env) & GUARDED == MAY_HAVE[role]
        assert bool(production[role].get("secrets")) is (role in ("api", "worker"))


def test_each_role_has_the_volumes_that_it_works_with(demo, production):
    """
    Beat reads the repository; Flower has none of it, and a place for its history.
    """
    keys = "demo-keys:/run/ferry/keys:ro"
    mounted = {role: demo[role].get("volumes", []) for role in FERRY}
    assert mounted["api"] == mounted["worker"] == ["data:/srv/ferry", keys]
    assert mounted["beat"] == ["data:/srv/ferry:ro"]
    assert mounted["flower"] == ["flower:/var/lib/flower"]
    for role in FERRY:
        assert production[role].get("volumes", ["data:/srv/ferry"]) == ["data:/srv/ferry"]
    assert "FLOWER_DB=/var/lib/flower/" in (ROOT / "Dockerfile").read_text()


def test_every_setting_of_the_production_file_is_ferrys(production):
    for role in FERRY:
        names = {name for name in production[role]["environment"] if name.startswith("CFP_")}
        assert names <= KNOWN


# Those of git, libcurl, OpenSSL and OpenTelemetry that the reference names.
OF_OTHERS = re.compile(r"`(GIT_SSH_COMMAND|GIT_SSL_\w+|SSL_CERT_FILE|(?:HTTPS?|NO)_PROXY|OTEL_\w+)`")


def test_every_variable_of_the_reference_reaches_the_containers(demo):
    """
    Of docker-compose.yml alone, too: what stands in .env and is not handed on is ignored without a word.
    """
    reference = (ROOT / "docs" / "reference" / "settings.md").read_text()
    rows = "\n".join(re.findall(r"^\| (.*?) \|", reference, re.MULTILINE))
    assert set(re.findall(r"`((?:CFP|SENTRY)_\w+)`", rows)) - {"CFP_DATA_REPOSITORIES"} == KNOWN
    for role in FERRY:
        for name in KNOWN | set(OF_OTHERS.findall(reference)):
            if (
                name in demo[role]["environment"] or name == "CFP_HTTPS_TOKEN_PATH"
            ):  # the demo's remote is no https://
                continue
            assert name in GUARDED - MAY_HAVE[role] | {"OTEL_EXPORTER_OTLP_HEADERS"}, (role, name)
    assert "OTEL_EXPORTER_OTLP_HEADERS" in demo["worker"]["environment"]


def test_certificates_of_a_private_authority_reach_the_containers(demo):
    compose = read("docker-compose.yml")
    assert compose["configs"]["ca_bundle"]["file"] == "${FERRY_CA_BUNDLE:-/dev/null}"
    for role in FERRY:
        env = demo[role]["environment"]
        assert demo[role]["configs"] == [{"source": "ca_bundle", "target": env["FERRY_CA_BUNDLE"]}]
        assert {env[name] for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO")} == {
            "/tmp/ferry-ca.crt"
        }


def test_another_path_of_a_file_replaces_the_containers():
    """
    Compose compares a container's labels, and no path of a config or a secret.
    """
    base, over = read("docker-compose.yml"), read("compose.production.yml")
    files = [each["file"] for each in (*base["configs"].values(), *over["secrets"].values())]
    variables = {re.match(r"\$\{(\w+)", file)[1] for file in files}
    for role in FERRY:
        assert set(re.findall(r"\$\{(\w+)", base["services"][role]["labels"]["ferry.files"])) == variables


def test_every_setting_of_ferrys_reaches_production(demo, production):
    """
    One that does not would be dropped without a word: reads would stay open, for one.
    """
    for role in FERRY:
        given = {*demo[role]["environment"], *production[role]["environment"]}
        assert KNOWN - given == GUARDED - MAY_HAVE[role] - {"FLOWER_BASIC_AUTH"}


def test_production_keeps_nothing_of_the_demo(demo, production):
    """
    Neither its tokens nor its keys nor its git server: what it does not replace has no default.
    """
    assert production["git-server"] == {"profiles": ["demo"]}
    for role in FERRY:
        env = {**demo[role]["environment"], **production[role]["environment"]}
        assert "demo" not in str(env).lower()
        volumes = production[role].get("volumes") or demo[role].get("volumes", [])
        assert "demo-keys" not in str(volumes)
        for name in {"CFP_DATA_REMOTE", "CFP_API_TOKENS", "CFP_ADMIN_TOKEN", "FLOWER_BASIC_AUTH"} & set(env):
            assert f"${{{name}:?" in env[name]


def test_the_worker_is_given_longer_than_a_push_may_take(demo):
    grace_s = float(default(demo["worker"]["stop_grace_period"]).removesuffix("s"))
    assert (
        grace_s
        > Settings.from_env(
            {name: default(value) for name, value in demo["worker"]["environment"].items()}
        ).push_timeout_s
    )


def test_every_service_is_hardened_limited_and_started_again(demo, production):
    for name, service in {**demo, "tls": production["tls"]}.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name


def test_the_demo_listens_on_loopback_alone(demo):
    ports = [port for service in demo.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_image_is_left_to_chance(demo, production):
    """
    Each has a tag that is a version, or is built here.
    """
    for service in (*demo.values(), production["tls"]):
        assert re.search(r":(local|[0-9][\w.-]*)$", default(service["image"]))
