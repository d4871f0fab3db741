"""
What makes an API a replica: how it keeps up with origin.
"""
