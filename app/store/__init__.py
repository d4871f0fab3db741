"""
Records to git and back. Knows no HTTP.
"""
