"""
What a sheet's declaration says, and what becomes of a record under it.
"""
