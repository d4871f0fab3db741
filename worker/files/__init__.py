"""
Ferry's own files in the data repository: where they lie, how they are locked, replaced and shared.
"""
