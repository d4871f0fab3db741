"""
Whether an answer is one that the OpenAPI document foresees.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import jsonschema_rs

Json = dict[str, Any]


class Contract:
    """
    The OpenAPI document of one repository's API.
    """

    def __init__(self, document: Json) -> None:
        self._document = document
        self._validators: dict[str, Any] = {}

    def faults(self, method: str, template: str, answer: Any) -> list[str]:
        """
        Return what is wrong with *answer* to a request at an address of *template*.
        """
        pointer = f"#/paths/{_escaped(template)}/{method.lower()}/responses"
        foreseen = self._at(pointer)
        named = str(answer.status_code) if str(answer.status_code) in foreseen else "default"
        if named == "default" and answer.status_code < 400:
            return [f"the document foresees no {answer.status_code}"]
        pointer, response = self._resolved(f"{pointer}/{named}")
        wanted = [each for each in response.get("headers", ()) if each != "Location"]
        faults = [f"no header {each}" for each in wanted if each not in answer.headers]
        content = response.get("content", {})
        if not content:
            return [*faults, *(["there is a body"] if answer.data else [])]
        media_type = answer.content_type.split(";")[0]
        if "application/octet-stream" in content:  # an attachment's own type follows from its name
            return faults
        if media_type not in content:
            return [*faults, f"the document foresees no {media_type}"]
        if not media_type.endswith("json"):
            return faults
        value = json.loads(answer.data)
        validator = self._validator(f"{pointer}/content/{_escaped(media_type)}/schema")
        faults += [f"{each.instance_path}: {each.message[:300]}" for each in validator.iter_errors(value)]
        return faults

    def _resolved(self, pointer: str) -> tuple[str, Json]:
        found = self._at(pointer)
        return self._resolved(found["$ref"]) if "$ref" in found else (pointer, found)

    def _at(self, pointer: str) -> Any:
        found: Any = self._document
        for part in pointer.removeprefix("#/").split("/"):
            found = found[part.replace("~1", "/").replace("~0", "~")]
        return found

    def _validator(self, pointer: str) -> Any:
        if pointer not in self._validators:
            # The whole document is the schema, so that the references in it lead somewhere.
            schema = {**self._document, "$ref": quote(pointer, safe="#/~")}
            self._validators[pointer] = jsonschema_rs.Draft202012Validator(schema)
        return self._validators[pointer]


def _escaped(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")
