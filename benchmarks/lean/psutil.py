"""
No ``psutil``: it comes with what tests need, and not with Ferry; see ``benchmarks.idle``.
"""

raise ImportError("psutil is not installed where Ferry runs")
