"""
The express lane: Ferry itself speaks git's push protocol, if that is certain to do what ``git push`` would.

Read ``lane`` first. ``allowed`` decides whether the configuration lets Ferry take it, ``pack`` makes the pack
in this process, and ``wire`` is the protocol.
"""
