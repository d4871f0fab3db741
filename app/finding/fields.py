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
Kind = Literal["number", "date", "boolean", "text"]

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
        return self._look_up(field)[0]

    def kinds(self, field: Sequence[str]) -> frozenset[Kind]:
        """
        Return the kinds of value that *field* can have; none: any, as far as the schemas say.
        """
        found = (_kinds(schema) for schema in self.schemas_of(field))
        return frozenset(kind for kinds in found if None not in kinds for kind in kinds if kind)

    def schemas_of(self, field: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        """
        Return what the schemas declare of *field*; nothing if they do not declare it.
        """
        return self._look_up(field)[1]

    def _look_up(self, field: Sequence[str]) -> tuple[Place, Sequence[Mapping[str, Any]]]:
        place, schemas = _look(self.schemas, field[0])
        for name in field[1:]:
            tables = [schema for schema in schemas if "properties" in schema]
            if place != "declared" or not tables:
                return place, []
            place, schemas = _look(tables, name)
        return place, schemas


def _kinds(schema: Any) -> set[Kind | None]:
    """
    Return the kinds of value that *schema* names, of a list those of its items; None among them: any.
    """
    types = schema.get("type") if isinstance(schema, dict) else None
    found: set[Kind | None] = set()
    for word in types if isinstance(types, list) else [types]:
        if word in ("integer", "number"):
            found.add("number")
        elif word == "string":
            found.add("date" if schema.get("format") in ("date", "date-time") else "text")
        elif word == "boolean":
            found.add("boolean")
        elif word == "array":
            found |= _kinds(schema.get("items"))
        elif word not in ("null", "object"):  # no filter names a value of these
            found.add(None)
    return found


def _look(schemas: Sequence[Mapping[str, Any]], name: str) -> tuple[Place, list[Mapping[str, Any]]]:
    """
    Return where the field *name* stands in the tables that *schemas* describe, and its own schemas.
    """
    found = [schema["properties"][name] for schema in schemas if name in schema.get("properties", {})]
    if found or any(key in schema for schema in schemas for key in _ELSEWHERE):
        return "declared", [each for each in found if isinstance(each, dict)]
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
