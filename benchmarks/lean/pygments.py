"""
No ``pygments``: it comes with what tests need, and not with Ferry; see ``benchmarks.idle``.
"""

raise ImportError("pygments is not installed where Ferry runs")
