"""
The express lane: Ferry itself speaks git's push protocol, if that is certain to do what ``git push`` would.

Read ``lane`` first, then ``pushes``. ``allowed`` decides whether git's configuration lets Ferry take it,
``pack`` makes the pack in this process, ``standing`` and ``web`` keep sessions and connections, and ``wire``
is the protocol.
"""
