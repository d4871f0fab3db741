"""
What a record's file says, and its values.
"""
