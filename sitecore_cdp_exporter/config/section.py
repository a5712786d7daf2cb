"""What the sections of the config file have in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


def _describe_section(schema: dict[str, Any]) -> None:
    """Let a section's JSON Schema allow the null that `Section.without_empty_keys` drops."""
    for name, value in schema["properties"].items():
        value.pop("title", None)  # It only repeats the key.
        if name not in schema.get("required", ()) and {"type": "null"} not in value.get("anyOf", ()):
            outer = {key: value.pop(key) for key in ("description", "default") if key in value}
            schema["properties"][name] = {"anyOf": [value, {"type": "null"}], **outer}


class Section(BaseModel):
    """A mapping of the config file. A key without a value counts as left out, as in Prometheus."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, json_schema_extra=_describe_section
    )

    @model_validator(mode="before")
    @classmethod
    def without_empty_keys(cls, data: object) -> object:
        """Drop the keys that have no value, so that they get their defaults."""
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}


def duration(default: str, description: str) -> Any:  # noqa: ANN401  A field with the type of its annotation.
    """Make a field whose default is written as in the file, and so in the schema."""
    return Field(default=default, validate_default=True, description=description)
