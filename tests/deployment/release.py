"""
What `make release VERSION=0.2.0` does: sets the version, gathers the changelog, and builds what is published.

All of it depends on the tree and on SOURCE_DATE_EPOCH alone (default: the time of HEAD): a second run makes
the same bytes, anywhere. Commits nothing and uploads nothing; see docs/operations/releasing.md.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path

# Where the version stands, and how.
PLACES = (
    ("pyproject.toml", r'^(version = ")[^"]*(")$'),
    ("helm/ferry/Chart.yaml", r"^(version: )\S+()$"),
    ("helm/ferry/Chart.yaml", r'^(appVersion: ")[^"]*(")$'),
)
CHART = "helm/ferry"
CHANGELOG = "CHANGELOG.md"


def main() -> None:
    """
    Release the tree in the working directory.
    """
    version = sys.argv[1] if len(sys.argv) == 2 else ""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        sys.exit("name it: make release VERSION=0.2.0")
    root, epoch = Path.cwd(), _epoch()
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    set_version(root, version)
    if f"\n## {version} " not in (root / CHANGELOG).read_text():  # else of a run before
        date = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d")
        _run("towncrier", "build", "--yes", "--version", version, "--date", date)
    dist = root / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    _run("hatchling", "build")
    package_chart(root / CHART, dist / f"ferry-chart-{version}.tgz", epoch)
    write_constraints(root / "requirements/run.txt", dist / "constraints.txt")
    _run(
        "cyclonedx_py", "requirements", "requirements/run.txt", "--pyproject", "pyproject.toml",
        "--output-reproducible", "--output-file", str(dist / "sbom.json"),
    )  # fmt: skip
    sums = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(dist.iterdir())
    ]
    (dist / "SHA256SUMS").write_text("".join(sums))
    sys.stdout.write("".join(sums))


def set_version(root: Path, version: str) -> None:
    """
    Write *version* wherever it stands.
    """
    for place, pattern in PLACES:
        path = root / place
        text, found = re.subn(pattern, rf"\g<1>{version}\g<2>", path.read_text(), flags=re.MULTILINE)
        if found != 1:
            sys.exit(f"{path} names no version as {pattern}")
        path.write_text(text)


def package_chart(chart: Path, package: Path, epoch: int) -> None:
    """
    Pack a chart as `helm package` does, in an order and with times of its own.
    """
    ignored = [line.strip("/\n") for line in (chart / ".helmignore").open() if line.startswith("/")]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in sorted(path for path in chart.rglob("*") if path.is_file()):
            if file.relative_to(chart).parts[0] in ignored:
                continue
            entry = tarfile.TarInfo(f"{chart.name}/{file.relative_to(chart)}")
            entry.size, entry.mtime, entry.mode = file.stat().st_size, epoch, 0o644
            with file.open("rb") as content:
                archive.addfile(entry, content)
    package.write_bytes(gzip.compress(packed.getvalue(), mtime=epoch))


def write_constraints(pins: Path, constraints: Path) -> None:
    """
    Write the versions that were tested, for `pip install --constraint`, which takes no extras and no hashes.
    """
    found = re.findall(r"^([\w.-]+==[^\s\\;]+(?: ; [^\\\n]+?)?)(?: \\)?$", pins.read_text(), re.MULTILINE)
    constraints.write_text("".join(f"{line.strip()}\n" for line in found))


def _epoch() -> int:
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    command = ["git", "log", "-1", "--format=%ct"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)


def _run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, timeout=300)


if __name__ == "__main__":
    main()
