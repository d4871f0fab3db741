"""
No ``rfc3987_syntax``: its grammar takes seconds to compile; see ``tests/conftest.py``.
"""

raise ImportError("no test needs the format `iri`")
