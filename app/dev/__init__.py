"""
All of Ferry on one machine, for development, the demo and the tests. No deployment needs it.
"""
