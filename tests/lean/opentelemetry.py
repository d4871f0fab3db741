"""
No ``opentelemetry``: what tests need and Ferry does not; see ``tests/conftest.py``.
"""

raise ImportError("opentelemetry is not installed where Ferry runs")
