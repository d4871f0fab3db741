"""
What anybody may send, by the OpenAPI document: never a 500, and never an answer that it does not foresee.
"""

from __future__ import annotations

import contextlib
from collections import Counter

import hypothesis
import hypothesis.errors
import pytest

from ferry.app import create_app


@pytest.fixture(scope="module")
def app(_sample, tmp_path_factory):
    from tests.parts import Bare

    directory = tmp_path_factory.mktemp("fuzzed")
    data = Bare.copy(_sample, directory / "data.git")
    return create_app(
        {"CFP_DATA_REPO_PATH": str(data.path), "CFP_REDIS_URL": "redis://127.0.0.1:1/0"}, open_access=True
    )


def test_whatever_is_sent_is_answered_as_the_document_says(app):
    # Here, and not above: it would cost each process of a run a second.
    import schemathesis
    from schemathesis import GenerationMode

    schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    operations = [found.ok() for found in schema.get_all_operations()]
    answered = Counter()
    for operation in operations:
        if operation.path == "/api/events":  # a stream has no end to wait for
            continue
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            with contextlib.suppress(
                hypothesis.errors.Unsatisfiable
            ):  # what takes nothing, takes nothing wrong
                answered += _try(operation.as_strategy(generation_mode=mode))
    assert len(operations) > 30
    assert {200, 201, 400, 404, 422} <= set(answered), answered


def _try(cases):
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    answered = Counter()
    foreseen = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]

    @hypothesis.given(case=cases)
    @hypothesis.settings(
        max_examples=5,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def send(case):
        for waits in ("Prefer", "X-Ferry-At-Least"):  # it would only cost time
            case.headers.pop(waits, None)
        answered[case.call_and_validate(checks=foreseen).status_code] += 1

    send()
    return answered
