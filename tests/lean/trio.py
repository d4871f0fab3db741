"""
No ``trio``: what tests need and Ferry does not; see ``tests/conftest.py``.
"""

raise ImportError("trio is not installed where Ferry runs")
