"""
Whether git's commit-graph records the paths that each commit changed.

https://git-scm.com/docs/gitformat-commit-graph
"""

from __future__ import annotations

from pathlib import Path

_SIGNATURE, _PATHS = b"CGPH", b"BDAT"
_HEADER_BYTES, _LINE_BYTES = 8, 12


def has_paths(repository: Path) -> bool:
    """
    Whether the bare *repository* has a commit-graph, and every part of it holds the changed paths.
    """
    layers = _layers(repository / "objects" / "info")
    return bool(layers) and all(map(_tells_paths, layers))


def _layers(directory: Path) -> list[Path]:
    if (whole := directory / "commit-graph").exists():
        return [whole]
    parts = directory / "commit-graphs"
    try:
        names = (parts / "commit-graph-chain").read_text("ascii", "replace").split()
    except OSError:
        return []
    return [parts / f"graph-{name}.graph" for name in names]


def _tells_paths(layer: Path) -> bool:
    try:
        with layer.open("rb") as file:
            header = file.read(_HEADER_BYTES)
            chunks = file.read(_LINE_BYTES * header[6]) if header.startswith(_SIGNATURE) else b""
    except (OSError, IndexError):
        return False
    return _PATHS in (chunks[at : at + 4] for at in range(0, len(chunks), _LINE_BYTES))
