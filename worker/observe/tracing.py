"""
OpenTelemetry: one trace from the request to the push, if OpenTelemetry's own variables enable it.

An extra (``pip install 'gitsheets-ferry[otel]'``). Without ``OTEL_EXPORTER_OTLP_ENDPOINT`` or a similar
variable, OpenTelemetry is not imported.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from ferry.worker.observe.logs import log

_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def is_wanted(env: Mapping[str, str]) -> bool:
    """
    Whether the environment names an endpoint for traces.
    """
    return env.get("OTEL_SDK_DISABLED") != "true" and any(env.get(variable) for variable in _VARIABLES)


def configure(service: str) -> bool:
    """
    Send this process's traces, including Celery's, if the environment asks for it; returns whether they are
    sent.

    Each process calls it, because the exporter does not survive a fork.

    Args:
        service: Name of the service; ``OTEL_SERVICE_NAME`` overrides it.
    """
    if not is_wanted(os.environ):
        return False
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.celery import CeleryInstrumentor
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        log().warning("tracing.unavailable", error=str(exc), hint="pip install 'gitsheets-ferry[otel]'")
        return False
    resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME") or service})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]
    return True


def span(name: str, **attributes: Any) -> AbstractContextManager[Any]:
    """
    Time the block as part of the trace, if there is one.
    """
    if not is_wanted(os.environ):
        return contextlib.nullcontext()
    try:
        from opentelemetry import trace
    except ImportError:
        return contextlib.nullcontext()
    return trace.get_tracer("ferry").start_as_current_span(name, attributes=attributes)
