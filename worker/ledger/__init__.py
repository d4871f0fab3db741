"""
What Ferry remembers of each remote, in small files in the data repository.
"""
