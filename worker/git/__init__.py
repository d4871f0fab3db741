"""
The data repository as git has it. Nothing in here decides whether to push.

``repository`` is its branch, ``history`` its commits, ``objects`` and ``refs`` what is read and moved in
this process, ``remote`` the commands that talk to a remote, and ``parts`` how many commits one push carries.
``command`` runs git, with what ``environment`` says. ``prepare`` and ``clone`` are for the start, ``packing``
keeps the repository small.
"""
