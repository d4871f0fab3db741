"""
Whole sheets over HTTP: lists as lines, and the import of files. ``ferry.app.exchange`` has the forms.
"""
