"""
No ``msgpack``: it comes with what tests need, and not with Ferry; see ``benchmarks.idle``.
"""

raise ImportError("msgpack is not installed where Ferry runs")
