"""
The code of extensions, called in processes of their own: neither a worker nor a reconcile imports it.

``process`` starts such a process and reads what it says, and ``inside`` is what each of them does first and
last. ``sheets`` says which files are records, for what they are given. ``ferry.worker.after`` calls functions
after commits; here, ``merges`` asks the rules about a merge, which ``merge_child`` calls with the writes and
the reads that ``merge_writes`` makes of it.
"""
