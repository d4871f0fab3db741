"""
Configuring and correcting Celery, kombu and the Redis transport.

Begin with ``celery_app``, which sets each option of Celery with its reason. ``connection`` and
``redis_transport`` connect to the broker, ``consumer`` and ``messages`` receive its messages, ``children``
spares memory in pool processes, and ``shutdown`` and ``beat`` end the processes.
"""
