"""
The command ``ferry``.
"""
