"""
The fields that a sheet's records can have, as its schemas say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gitsheets

from ferry.app.sheets.schema_cost import is_cheap
from ferry.app.sheets.sheet import Sheet

Place = Literal["declared", "open", "nowhere"]

# Keywords that declare properties outside of "properties": any of them may declare a field.
_ELSEWHERE = ("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas")


@dataclass(frozen=True, slots=True)
class Fields:
    """
    What is known of the fields of one sheet.

    Attributes:
        sheet: The sheet's name as messages give it.
        schemas: Its JSON Schema and those of its contracts.
        others: Fields that it has without a schema: those of its path, and of a markdown record.
    """

    sheet: str
    schemas: Sequence[Mapping[str, Any]]
    others: frozenset[str]

    @classmethod
    def of(cls, sheet: Sheet, contracts: Mapping[str, Mapping[str, Any]]) -> Fields:
        names = sheet.names.fields if sheet.names else ()
        others = {*names, sheet.body_field, sheet.title_field} - {None}
        return cls(
            f"the sheet {sheet.name!r}",
            [*contracts.values(), *([sheet.schema] if sheet.schema else [])],
            frozenset(name for name in others if name),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """
        The fields that are declared, outside of tables.
        """
        declared = (name for schema in self.schemas for name in schema.get("properties", {}))
        return tuple(dict.fromkeys([*declared, *sorted(self.others)]))

    def find(self, field: Sequence[str]) -> Place:
        """
        Return whether *field*, the names of the tables on the way to it and its own, is declared.

        Where the schemas cannot tell, because they refer to others or declare none, it counts as declared.
        """
        if field[0] in self.others or not any(schema.get("properties") for schema in self.schemas):
            return "declared"
        schemas = self.schemas
        for name in field:
            place, schemas = _look(schemas, name)
            if place != "declared" or not schemas:
                return place
        return "declared"


def _look(schemas: Sequence[Mapping[str, Any]], name: str) -> tuple[Place, list[Mapping[str, Any]]]:
    """
    Return where the field *name* stands in the tables that *schemas* describe, and its own schemas.
    """
    found = [schema["properties"][name] for schema in schemas if name in schema.get("properties", {})]
    if found or any(key in schema for schema in schemas for key in _ELSEWHERE):
        return "declared", [each for each in found if isinstance(each, dict) and "properties" in each]
    if any(_matches_a_pattern(schema, name) for schema in schemas):
        return "declared", []
    is_closed = any(schema.get("additionalProperties") is False for schema in schemas)
    return "nowhere" if is_closed else "open", []


def _matches_a_pattern(schema: Mapping[str, Any], name: str) -> bool:
    if not (patterns := schema.get("patternProperties", {})):
        return False
    # gitsheets matches the patterns: they are ECMAScript's, not Python's.
    matches = {"patternProperties": dict.fromkeys(patterns, True), "additionalProperties": False}
    # If matching may take long, every name counts as declared: the schema must not make a filter slow.
    return bool(patterns) and (
        not is_cheap(schema) or not gitsheets.validate_batch(matches, [{name: True}])[0]
    )
