"""
Ferry's own files in the data repository.

Begin with ``places``, which says where each of them lies. ``locks`` holds them, ``atomic_json`` and
``flushing`` write them, ``sharing`` and ``ownership`` say who may use them.
"""
