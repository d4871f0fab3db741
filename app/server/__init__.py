"""
What runs the API process: its event loop, and the deadlines and bounds of each connection.
"""
