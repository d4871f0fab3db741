"""
What the API knows of its clients before it answers one.

``tokens`` reads the tokens that clients may bring, ``limits`` counts requests and wrong tokens, and
``neighbours`` recognises programs and pages of the same machine. ``ferry.app.access`` decides by them who may
read, write and operate.
"""
