"""
Which fields a query may name, by the schemas of the sheet.
"""

from __future__ import annotations

import pytest

from ferry.app.finding.fields import Fields

ADDRESS = {"type": "object", "properties": {"city": {"type": "string"}}, "additionalProperties": False}
OPEN = {"properties": {"name": {"type": "string"}, "address": ADDRESS, "tags": True}}
CLOSED = {**OPEN, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schemas", "field", "place"),
    [
        ([OPEN], "name", "declared"),
        ([OPEN], "slug", "declared"),  # of the path
        ([OPEN], "page", "open"),
        ([CLOSED], "page", "nowhere"),
        ([OPEN], "address.city", "declared"),
        ([OPEN], "address.town", "nowhere"),
        ([OPEN], "tags.anything", "declared"),
        ([OPEN], "page.number", "open"),
        ([OPEN, {"properties": {"page": {}}}], "page", "declared"),  # of a contract
        ([OPEN, CLOSED], "page", "nowhere"),
        ([{**OPEN, "patternProperties": {"^p": True}}], "page", "declared"),
        ([{**CLOSED, "patternProperties": {"^p": True}}], "page", "declared"),
        ([{**CLOSED, "patternProperties": {"^q": True}}], "page", "nowhere"),
        ([{**CLOSED, "allOf": [{"$ref": "#/$defs/paged"}]}], "page", "declared"),  # nobody follows it here
        ([], "page", "declared"),  # nothing is declared, so nothing is a slip
        ([{"type": "object"}], "page", "declared"),
    ],
)
def test_a_field_is_declared_or_allowed_or_neither(schemas, field, place):
    fields = Fields("the sheet", schemas, frozenset({"slug"}))
    assert fields.find(field.split(".")) == place
