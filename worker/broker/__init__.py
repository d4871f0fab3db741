"""
Celery, kombu and Redis as Ferry needs them.
"""
