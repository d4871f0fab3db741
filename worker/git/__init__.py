"""
Reading and writing the data repository with git. No module here decides whether to push.

``repository`` is the branch, ``history`` its commits. ``objects`` and ``refs`` read and write objects and
refs without a git process. ``remote`` runs the commands that talk to a remote, and ``parts`` decides how many
commits one push carries. ``command`` runs git in the environment that ``environment`` makes. ``prepare`` and
``clone`` run at the start, and ``packing`` keeps the repository small.
"""
