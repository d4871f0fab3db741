"""
Celery, kombu and Redis as Ferry needs them.

Begin with ``celery_app``, which sets each option of Celery with its reason. ``connection`` and
``redis_transport`` are the way to the broker, ``consumer`` and ``messages`` take what comes from it, and
``shutdown`` ends the processes.
"""
