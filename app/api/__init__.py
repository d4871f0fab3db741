"""
The HTTP resources, one module each: parse, authorise, answer.
"""
