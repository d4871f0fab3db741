"""
What a record's file says, and its values: ``codec`` reads one file, ``plain`` most of many at once.
"""
