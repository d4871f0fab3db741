"""
What the API and the functions after a commit both know of records: how markdown holds one, and which sheet's
template makes a path. ``ferry.app`` has the rest: declarations in full, validation, writing.
"""
