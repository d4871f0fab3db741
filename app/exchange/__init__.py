"""
Whole sheets in and out: records as lines of CSV and NDJSON.

Read ``forms`` first. ``cells`` has the rules for a value in a cell, ``marks`` those for a value in JSON.
"""
