"""
Every commit that Ferry makes carries a signature that git verifies, or it is not made.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from ferry.app.errors import NotSignedError
from ferry.app.store.store import Store
from ferry.worker.doctor import _signing
from ferry.worker.errors import SettingsError, SigningError
from ferry.worker.files.places import write_lock
from ferry.worker.git.remote import Remote
from ferry.worker.git.repository import Repository
from ferry.worker.git.signing import Committer
from ferry.worker.repair.reconcile import Reconciler
from tests.line import Deployment
from tests.needs import need
from tests.parts import Bare

FERRY = "ferry@town.example"
JANE = ("Jane", "jane@users.noreply.ferry.invalid")


def new_key(path: Path, kind: str = "ed25519", *options: str, passphrase: str = "") -> Path:
    """
    Make a key in the place of whatever is at *path*.
    """
    need("ssh-keygen")
    for left in (path, Path(f"{path}.pub")):
        left.unlink(missing_ok=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, *options, "-N", passphrase, "-C", "", "-f", path],
        check=True,
        timeout=60,
    )
    return path


def verifies(data: Bare, commit: str, *keys: Path) -> bool:
    """
    Whether git finds a signature of one of *keys* in *commit*.
    """
    signers = data.path.parent / "allowed_signers"
    signers.write_text("".join(f"{FERRY} {Path(f'{key}.pub').read_text()}" for key in keys))
    command = ["git", "-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-commit", commit]
    done = subprocess.run(command, cwd=data.path, check=False, capture_output=True, text=True, timeout=60)
    return done.returncode == 0 and f'Good "git" signature for {FERRY}' in done.stderr


@dataclass(frozen=True)
class Signed:
    """
    A deployment that signs, and a stranger who writes to its remote and does not.
    """

    data: Bare
    remote: Bare
    key: Path
    deployment: Deployment
    stranger: Store

    @property
    def repository(self) -> Repository:
        return self.deployment.repository

    def write(self, slug: str, store: Store | None = None, **fields: str) -> str:
        with (store or Store(self.repository)).commit(f"Write {slug}", author=JANE) as transaction:
            transaction.put("people", slug, {"slug": slug, "name": slug.title(), **fields})
        return str(transaction.commit)

    def theirs(self, slug: str, **fields: str) -> str:
        commit = self.write(slug, self.stranger, **fields)
        self.remote.git("fetch", "--quiet", self.stranger.snapshot().git_dir, "main:main")
        return commit

    def reconcile(self, strategy: str, **options):
        deployment = self.deployment
        lock = write_lock(self.data.path)
        return Reconciler(deployment.settings, self.repository, deployment.ledger, lock).reconcile(
            "origin", strategy, **options
        )


@pytest.fixture
def signed(deploy: Callable[..., Deployment], data: Bare, remote: Bare, tmp_path: Path) -> Signed:
    key = new_key(tmp_path / "key")
    deployment = deploy(CFP_DATA_SIGNING_KEY_PATH=str(key), CFP_DATA_COMMITTER=f"Town Ferry <{FERRY}>")
    Remote(deployment.repository, "origin", timeout_s=20).push(deployment.repository.head() or "")
    copy = Bare.copy(data.path, tmp_path / "stranger.git")
    return Signed(data, remote, key, deployment, Store(Repository(copy.path, branch="main")))


def test_a_write_is_signed_by_the_committer_and_keeps_its_author(signed: Signed):
    commit = signed.write("jane")

    assert verifies(signed.data, commit, signed.key)
    people = signed.data.git("show", "--no-patch", "--format=%an <%ae>, %cn <%ce>", commit)
    assert people == f"Jane <{JANE[1]}>, Town Ferry <{FERRY}>"
    assert signed.data.git("fsck", "--strict", "--no-dangling") == ""


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ed25519", []),
        ("rsa", ["-b", "2048"]),
        ("rsa", ["-b", "2048", "-m", "PEM"]),
        ("ecdsa", ["-b", "384"]),
    ],
)
def test_each_type_of_key_that_ssh_makes_signs(signed: Signed, kind: str, options: list[str]):
    new_key(signed.key, kind, *options)

    assert verifies(signed.data, signed.write("jane"), signed.key)


def test_a_signature_is_the_very_one_that_git_makes(signed: Signed):
    """
    An ed25519 signature is the same each time, and with it the commit's name.
    """
    commit = signed.write("jane")
    content = signed.data.git("cat-file", "commit", commit)
    signed.data.git("config", "gpg.format", "ssh")
    signed.data.git("config", "user.signingKey", str(signed.key))
    seconds = signed.data.git("show", "--no-patch", "--format=%at", commit)
    env = {"PATH": "/usr/bin:/bin"}
    for role, (name, email) in {"AUTHOR": JANE, "COMMITTER": ("Town Ferry", FERRY)}.items():
        parts = {"NAME": name, "EMAIL": email, "DATE": f"{seconds} +0000"}
        env |= {f"GIT_{role}_{part}": value for part, value in parts.items()}
    command = ["git", "commit-tree", "-S", f"{commit}^{{tree}}", "-p", f"{commit}^", "-m", "Write jane"]
    made = subprocess.run(
        command,
        cwd=signed.data.path,
        env=env,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.strip()

    assert signed.data.git("cat-file", "commit", made) == content
    assert made == commit


@pytest.mark.parametrize("strategy", ["merge", "rebase"])
def test_what_a_reconcile_makes_is_signed(signed: Signed, strategy: str):
    ours = [signed.write("jane"), signed.write("kim")]
    theirs = signed.theirs("joe")

    outcome = signed.reconcile(strategy)

    assert outcome.state == {"merge": "merged", "rebase": "rebased"}[strategy]
    made = signed.data.git("rev-list", f"{theirs}..main").split()
    assert len(made) == {"merge": 3, "rebase": 2}[strategy]
    assert (ours[0] in made) is (strategy == "merge")
    for commit in made:
        assert verifies(signed.data, commit, signed.key), commit
        assert signed.data.git("show", "--no-patch", "--format=%ce", commit) == FERRY
    assert signed.data.git("fsck", "--strict", "--no-dangling") == ""


def test_a_rebased_commit_has_no_signature_that_it_does_not_fit(signed: Signed, deploy):
    """
    Where no key signs any more, the signatures of what is made again are left out.
    """
    signed.write("jane")
    theirs = signed.theirs("joe")
    unsigned = deploy()

    outcome = Reconciler(
        unsigned.settings, unsigned.repository, unsigned.ledger, write_lock(signed.data.path)
    ).reconcile("origin", "rebase")

    assert outcome.state == "rebased"
    [made] = signed.data.git("rev-list", f"{theirs}..main").split()
    assert "gpgsig" not in signed.data.git("cat-file", "commit", made)


def test_a_merge_with_sides_that_an_operator_took_is_signed(signed: Signed):
    signed.write("jane", email="ours@example.org")
    signed.theirs("jane", email="theirs@example.org")

    outcome = signed.reconcile("merge", takes={"people/jane.toml:email": "theirs"})

    assert outcome.state == "merged"
    assert verifies(signed.data, str(outcome.after), signed.key)


def test_a_renewed_key_signs_the_next_commit_without_a_restart(signed: Signed, tmp_path: Path):
    before = signed.write("jane")
    new_key(tmp_path / "new")
    for name in ("key", "key.pub"):
        (tmp_path / name.replace("key", "new")).replace(tmp_path / name)

    after = signed.write("kim")

    assert verifies(signed.data, after, signed.key)
    assert not verifies(signed.data, before, signed.key)


def _missing(key: Path) -> None:
    key.unlink()


def _passphrase(key: Path) -> None:
    new_key(key, passphrase="correct horse")


def _open_to_others(key: Path) -> None:
    key.chmod(0o644)


def _public(key: Path) -> None:
    Path(f"{key}.pub").replace(key)
    key.chmod(0o600)


def _cut_short(key: Path) -> None:
    key.write_bytes(key.read_bytes()[:99])


def _empty(key: Path) -> None:
    key.write_bytes(b"")


def _of_a_type_that_cannot_sign(key: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import x25519

    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key.write_bytes(x25519.X25519PrivateKey.generate().private_bytes(*form))


SPOILT = {
    _missing: "No such file",
    _passphrase: "passphrase",
    _open_to_others: "others may read",
    _public: "no private key",
    _cut_short: "no private key",
    _empty: "no private key",
    _of_a_type_that_cannot_sign: "no private key",
}


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_a_key_that_cannot_sign_refuses_the_write_and_is_told_of(
    signed: Signed, spoil: Callable[[Path], None]
):
    head = signed.write("lou")
    signed.theirs("joe")
    spoil(signed.key)

    with pytest.raises(NotSignedError, match=SPOILT[spoil]):
        signed.write("jane")
    assert signed.data.head() == head
    [finding] = _signing(SimpleNamespace(repository=signed.repository))
    assert (finding.state, finding.name) == ("failed", "CFP_DATA_SIGNING_KEY_PATH")
    assert SPOILT[spoil] in finding.detail
    with structlog.testing.capture_logs() as logged:
        signed.repository.objects.committer.report()
    assert [(each["event"], each["log_level"]) for each in logged] == [("signing.unavailable", "error")]
    with pytest.raises(SigningError):
        signed.reconcile("merge")
    assert signed.data.head() == head

    new_key(signed.key)
    assert verifies(signed.data, signed.write("jane"), signed.key)


def test_the_answer_names_the_setting(client, env, tmp_path: Path):
    env["CFP_DATA_SIGNING_KEY_PATH"] = str(tmp_path / "none")

    answer = client().put("/api/sheets/people/records/jane", json={"slug": "jane", "name": "Jane"})

    assert (answer.status_code, answer.json["code"]) == (503, "signing-unavailable")
    assert "CFP_DATA_SIGNING_KEY_PATH" in answer.json["hint"]
    assert str(tmp_path) not in answer.text
    assert answer.headers["Retry-After"]
    assert client().get("/api/sheets/people/records").status_code == 200


def test_doctor_shows_the_fingerprint_and_says_whose_address_is_missing(signed: Signed):
    [found] = _signing(SimpleNamespace(repository=signed.repository))
    listed = subprocess.run(
        ["ssh-keygen", "-l", "-f", signed.key], check=True, capture_output=True, text=True, timeout=60
    ).stdout.split()
    assert found.state == "ok"
    assert listed[1] in found.detail

    anonymous = SimpleNamespace(objects=SimpleNamespace(committer=Committer(None, signed.key)))
    [_, warning] = _signing(SimpleNamespace(repository=anonymous))
    assert warning.state == "warning"
    assert "CFP_DATA_COMMITTER" in warning.detail


@pytest.mark.parametrize(
    "text", ["ferry@town.example", "Ferry <ferry>", "Ferry <a@b> <c@d>", "<a@b>", "Ferry\nX <a@b>"]
)
def test_a_committer_is_a_name_and_an_address(deploy, text: str):
    with pytest.raises(SettingsError, match="CFP_DATA_COMMITTER"):
        deploy(CFP_DATA_COMMITTER=text)
