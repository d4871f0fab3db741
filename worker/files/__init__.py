"""
Ferry's own files in the data repository.

Begin with ``places``, which names the path of each. ``locks`` locks them, ``atomic_json`` and ``flushing``
write them, and ``sharing`` and ``ownership`` handle their permissions.
"""
