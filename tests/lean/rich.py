"""
No ``rich``: what tests need and Ferry does not; see ``tests/conftest.py``.
"""

raise ImportError("rich is not installed where Ferry runs")
