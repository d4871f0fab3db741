"""
What an operator does about a remote: reconcile, find a refused commit, verify.
"""
