"""
The committer of new commits, and the key that signs them.

A signature is what ``git commit --gpg-sign`` makes with ``gpg.format=ssh``: an SSHSIG of the commit
(https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig), which stands in its header. It is
made in this process: ``ssh-keygen`` would take longer than all the rest of a commit.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import struct
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferry.worker.errors import SigningError
from ferry.worker.observe.logs import log

VARIABLE = "CFP_DATA_SIGNING_KEY_PATH"
HINT = (
    f"Put a private ssh key (ed25519, ECDSA or RSA) without a passphrase at {VARIABLE}, which Ferry's user "
    "alone may read; the next commit reads it."
)
_MAGIC, _VERSION, _NAMESPACE, _HASH = b"SSHSIG", struct.pack(">I", 1), b"git", b"sha512"
_WIDTH = 70  # ssh-keygen's line length
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_SIGNATURE = re.compile(rb"^gpgsig(?:-sha256)? .*\n(?: .*\n)*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Key:
    """
    A private key that can sign.

    Attributes:
        kind: Its type, such as ``ssh-ed25519``.
        public: Its public key, in ssh's wire format.
        sign: Returns the signature of its argument, with its type, in ssh's wire format.
    """

    kind: str
    public: bytes
    sign: Callable[[bytes], bytes]

    @property
    def fingerprint(self) -> str:
        """
        Its fingerprint, as ``ssh-keygen -l`` and the hosts show it.
        """
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.public).digest()).decode().rstrip("=")


class Committer:
    """
    The committer of Ferry's commits.

    The key is read again when its file changes, so a renewed key needs no restart.

    Args:
        identity: Name and e-mail address; None: each commit's author.
        key_path: Private key that signs each commit; None: none is signed.
    """

    def __init__(self, identity: tuple[str, str] | None = None, key_path: Path | None = None) -> None:
        self.identity = identity
        self.key_path = key_path
        # Key and file version in one value, so that threads need no lock; two may read the file at once.
        self._read: tuple[tuple[int, ...], Key] | None = None

    def signed(self, commit: bytes) -> bytes:
        """
        Return the content of a commit with its signature, or unchanged if no key is configured.

        Raises:
            SigningError: The key cannot sign.
        """
        if self.key_path is None:
            return commit
        unsigned = unsigned_form(commit)
        head, _, text = unsigned.partition(b"\n\n")
        header = "gpgsig " + _armored(self.key(), unsigned).replace("\n", "\n ")
        return b"%s\n%s\n\n%s" % (head, header.encode("ascii"), text)

    def key(self) -> Key:
        """
        Return the current key in the file.

        Raises:
            SigningError: The file cannot be read, its key cannot sign, or no key is configured.
        """
        if self.key_path is None:
            raise SigningError("no key is configured")
        try:
            stat = os.stat(self.key_path)
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size, stat.st_mode, stat.st_uid)
            if (read := self._read) and read[0] == seen:
                return read[1]
            key = _loaded(self.key_path.read_bytes(), stat)
        except OSError as exc:
            raise SigningError(f"the key cannot be read: {exc.strerror}") from exc
        self._read = seen, key
        log().info("signing.key_read", key=key.kind, fingerprint=key.fingerprint)
        return key

    def report(self) -> None:
        """
        Log an error if a key is configured and cannot sign now.
        """
        if self.key_path is None:
            return
        try:
            self.key()
        except SigningError as exc:
            log().error("signing.unavailable", path=str(self.key_path), error=str(exc), hint=HINT)


def unsigned_form(commit: bytes) -> bytes:
    """
    Return the content of a commit without its signature: the text that is signed.
    """
    head, gap, text = commit.partition(b"\n\n")
    return _SIGNATURE.sub(b"", head + b"\n").removesuffix(b"\n") + gap + text


def _loaded(content: bytes, stat: os.stat_result) -> Key:
    """
    Return the key in *content*; *stat* has the file's owner and mode.
    """
    if stat.st_mode & 0o077 and stat.st_uid == os.getuid():  # the check that ssh makes
        raise SigningError(f"others may read the key (mode {stat.st_mode & 0o777:04o}): chmod 600")
    # Imported here, because it takes a tenth of a second, and only signing needs it.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    is_openssh = content.lstrip().startswith(_OPENSSH)
    load = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    try:
        private = load(content, password=None)
        public = private.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
    except TypeError as exc:  # the key needs a password
        raise SigningError("the key has a passphrase, which Ferry cannot enter") from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise SigningError("the file holds no private key that can sign") from exc
    kind, encoded = public.split(b" ")[:2]
    return Key(kind.decode("ascii"), base64.b64decode(encoded), _signer(private, kind))


def _signer(private: Any, kind: bytes) -> Callable[[bytes], bytes]:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

    def by_ecdsa(message: bytes) -> bytes:
        digests = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
        signature = private.sign(message, ec.ECDSA(digests[private.curve.key_size]))
        numbers = utils.decode_dss_signature(signature)
        return _string(kind) + _string(b"".join(map(_number, numbers)))

    if isinstance(private, ed25519.Ed25519PrivateKey):
        return lambda message: _string(kind) + _string(private.sign(message))
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return by_ecdsa
    if isinstance(private, rsa.RSAPrivateKey):
        scheme = padding.PKCS1v15(), hashes.SHA512()
        return lambda message: _string(b"rsa-sha2-512") + _string(private.sign(message, *scheme))
    raise SigningError(f"a key of type {kind.decode()} cannot sign commits")


def _armored(key: Key, message: bytes) -> str:
    about = _string(_NAMESPACE) + _string(b"") + _string(_HASH)
    signature = key.sign(_MAGIC + about + _string(hashlib.sha512(message).digest()))
    whole = _MAGIC + _VERSION + _string(key.public) + about + _string(signature)
    lines = textwrap.wrap(base64.b64encode(whole).decode("ascii"), _WIDTH)
    return "\n".join(("-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----"))


def _string(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def _number(value: int) -> bytes:
    return _string(value.to_bytes(value.bit_length() // 8 + 1, "big"))  # with room for a sign bit (RFC 4251)
