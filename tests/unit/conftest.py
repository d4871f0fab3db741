"""
A broker inside the tests' process, in place of a server.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from kombu.transport.redis import Transport

from ferry.worker.broker import celery_app

if TYPE_CHECKING:
    from tests.fake_broker import FakeBroker


@pytest.fixture(scope="session")
def _broker() -> Iterator[FakeBroker]:
    from tests.fake_broker import fake_broker  # fakeredis takes its time, and few tests need it

    with fake_broker() as running, pytest.MonkeyPatch.context() as patch:
        # A connection that is released waits for the end of its look at the queue, by default a second.
        patch.setattr(Transport, "brpop_timeout", 0.1)
        yield running


@pytest.fixture
def broker(_broker: FakeBroker) -> FakeBroker:
    """
    An empty broker inside this process, in place of a server.
    """
    _broker.refusal = None
    _broker.commands.clear()
    with _broker.client() as client:
        client.flushall()
    return _broker


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Give a broker that answers as long as a busy machine takes.
    """
    monkeypatch.setattr(celery_app, "PUBLISHER_SOCKET_TIMEOUT_S", 20.0)


@pytest.fixture
def valkey_port(broker: FakeBroker) -> int:
    """
    Where ``env`` says that the broker is.
    """
    return broker.port
