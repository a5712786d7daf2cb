"""The base class of the config file's sections."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


def _describe_section(schema: dict[str, Any]) -> None:
    """Allow null in a section's JSON Schema, because `Section.without_empty_keys` drops it."""
    for name, value in schema["properties"].items():
        value.pop("title", None)  # It only repeats the key.
        if name not in schema.get("required", ()) and {"type": "null"} not in value.get("anyOf", ()):
            outer = {key: value.pop(key) for key in ("description", "default") if key in value}
            schema["properties"][name] = {"anyOf": [value, {"type": "null"}], **outer}


class Section(BaseModel):
    """A mapping in the config file. A key without a value counts as unset, as in Prometheus."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, json_schema_extra=_describe_section
    )

    @model_validator(mode="before")
    @classmethod
    def without_empty_keys(cls, data: object) -> object:
        """Drop keys without a value, so that they get their defaults."""
        if not isinstance(data, dict):
            return data
        known = cls.keys()
        return {key: value for key, value in data.items() if value is not None or key not in known}

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """Return the keys that it may have, as they are written in the file."""
        return tuple(field.alias or name for name, field in cls.model_fields.items())


def duration(default: str, description: str) -> Any:  # noqa: ANN401  A field with the type of its annotation.
    """Declare a duration whose default appears in the schema as written in the file."""
    return Field(default=default, validate_default=True, description=description)
