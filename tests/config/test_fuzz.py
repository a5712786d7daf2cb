"""Config files that nobody would write on purpose: damaged ones with secrets in them, and any text at all."""

import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sitecore_cdp_exporter.config.model import Config, ConfigError, load_config

REF = "12af3453-62da-4b31-b646-631b7b5f3009"
OTHER_REF = "3ee694e5-0b77-2d1e-af19-1aa78f500785"
BASE_URL = "https://api-engage-eu.sitecorecloud.io"
# A part of the secret is enough to know it, because damage may cut it.
PART = "Zw9qV"
SECRET = PART * 4

# Every example rewrites the same file, so the examples may share the folder.
fuzz = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def outcome(content: bytes, folder: Path) -> tuple[Config | None, ConfigError | None]:
    """The config or the error. Each of its errors is one line that prints, with the path in front."""
    path = folder / "config.yaml"
    path.write_bytes(content)
    try:
        return load_config(path), None
    except ConfigError as raised:
        error = raised
    assert error.errors
    assert [line for line in error.errors if not line.startswith(f"{path}:") or not line.isprintable()] == []
    return None, error


def block(indentation: str, entries: dict[str, str]) -> str:
    return "".join(f"{indentation}{key}: {value}\n" for key, value in entries.items())


def flow(entries: dict[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in entries.items()) + "}"


@st.composite
def files_with_secrets(draw: st.DrawFn) -> str:
    """Good config files with secrets wherever they belong, in all styles of YAML and in any order."""

    def shuffled(entries: dict[str, str]) -> dict[str, str]:
        order: list[str] = draw(st.permutations(sorted(entries)))
        return {key: entries[key] for key in order}

    def quoted(text: str, styles: list[str]) -> str:
        style: str = draw(st.sampled_from(styles))
        return style.format(text)

    one_line = ["{}", "'{}'", '"{}"', "!!str {}"]
    any_style = [*one_line, "&secret {}", "|-\n        {}", ">-\n        {}", "\n        {}"]
    is_flow = draw(st.booleans())
    styles = one_line if is_flow else any_style
    basic_auth = shuffled({"username": quoted(SECRET, styles), "password": quoted(SECRET, styles)})
    api = {
        "base_url": BASE_URL,
        "basic_auth": flow(basic_auth) if is_flow else "\n" + block("      ", basic_auth).rstrip("\n"),
        "endpoint": "'inspect'",
        "timeout": "5s",
        "concurrency": "4",
        "tls_config": '{ca_file: "ca.pem", insecure_skip_verify: true}',
        "proxy_url": quoted(f"http://{SECRET}:{SECRET}@proxy.example:3128", styles),
    }
    batches = f"[{REF}, {{ref: {OTHER_REF}, feed: guests, labels: {{team: crm}}}}]"
    sections = {
        "api": "\n" + block("    ", shuffled(api)).rstrip("\n"),
        "batches": batches,
        "batch_files": '["batches.d/*.yaml", "tonight.json"]',
        "retention": "{succeeded: 24h, failed: 7d}",
        "recheck_finished": "24h",
        "discovery": "{enabled: true, max_batches: 10}",
        "error_logs": "{enabled: true, hosts: ['*.storage.example']}",
        "feeds": "[{name: guests, ref_prefix: 5a0c2f0e}, {name: orders, ref_prefix: 5a0c2f0f, grace: 0s}]",
    }
    if is_flow and draw(st.booleans()):
        sections["api"] = flow(shuffled(api))
    return block("", shuffled(sections))


@st.composite
def damages(draw: st.DrawFn, text: str) -> str:
    """A slip of the hand: some character or line is too many, missing or in the wrong place."""
    lines = text.splitlines(keepends=True)
    at, other = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
    position = draw(st.integers(0, len(text) - 1))
    inserted: str = draw(st.sampled_from([*"\n:#'\"{}[],&*!%@|>-?\\\t =5x\0", ": ", "- ", "<<: ", "---\n"]))
    match draw(st.sampled_from(["insert", "remove", "replace", "move", "copy", "drop", "indent"])):
        case "insert":
            return text[:position] + inserted + text[position:]
        case "remove":
            return text[:position] + text[position + 1 :]
        case "replace":
            return text[:position] + inserted + text[position + 1 :]
        case "move":
            lines.insert(other, lines.pop(at))
        case "copy":
            lines.insert(other, lines[at])
        case "drop":
            lines.pop(at)
        case "indent":
            lines[at] = " " * draw(st.integers(0, 10)) + lines[at].lstrip(" ")
    return "".join(lines) or "\n"


@fuzz
@given(text=files_with_secrets())
def test_secrets_are_read_in_every_style_and_the_config_does_not_show_them(text: str, tmp_path: Path) -> None:
    config, error = outcome(text.encode(), tmp_path)
    assert error is None
    assert config is not None
    assert config.api.basic_auth.password is not None
    assert config.api.basic_auth.password.get_secret_value() == SECRET
    assert config.api.proxy_url is not None
    assert PART not in repr(config)


@fuzz
@given(text=files_with_secrets().flatmap(damages) | files_with_secrets().flatmap(damages).flatmap(damages))
def test_no_damage_brings_a_secret_into_what_is_said(text: str, tmp_path: Path) -> None:
    config, error = outcome(text.encode(), tmp_path)
    said = repr(config)
    if error:
        assert error.__context__ is None
        assert error.__cause__ is None
        said = "\n".join([str(error), repr(error), *error.errors, *traceback.format_exception(error)])
    assert PART not in said


PIECES = st.sampled_from(
    [
        *(
            "api",
            "base_url",
            "batches",
            "labels",
            "timeout",
            "concurrency",
            REF,
            BASE_URL,
            "7",
            "true",
            "~",
            "1:30",
            "é",
        ),
        *(
            "&a",
            "*a",
            "!x",
            "!!binary",
            "!!set",
            "<<",
            "?",
            ":",
            ": ",
            "- ",
            "\n",
            "\n  ",
            "\n    ",
            "{",
            "}",
            "[",
            "]",
        ),
        *(
            ", ",
            "'",
            '"',
            "#",
            "|",
            ">",
            "---\n",
            "...\n",
            "%TAG ! x\n",
            "=",
            "2024-13-45",
            "\ufeff",
            "\u2028",
            "\ud800",
        ),
    ]
)


@fuzz
@given(
    text=st.text() | st.lists(PIECES).map("".join) | st.lists(PIECES).map(lambda pieces: "batches: " + "".join(pieces))
)
@example(text="a: 2024-13-45")
@example(text="a: 0b_")
@example(text="=: =")
@example(text="<<: {<<: 1}")
@example(text="!!binary x: !!omap [a]")
def test_any_text_gives_a_config_error(text: str, tmp_path: Path) -> None:
    assert outcome(text.encode("utf-8", "surrogatepass"), tmp_path)[1]


@fuzz
@given(content=st.binary())
def test_any_bytes_give_a_config_error(content: bytes, tmp_path: Path) -> None:
    assert outcome(content, tmp_path)[1]


@pytest.mark.parametrize(
    "slip",
    [
        f"{{{SECRET}}}",
        f"{{password:{SECRET}}}",
        f"{{password={SECRET}}}",
        f"{{password: x, {SECRET}, {SECRET}}}",
        f"\n    password {SECRET}: x",
        f"\n    password: [{SECRET}, {{{SECRET}: {SECRET}}}]",
        f"\n    password: {{{SECRET}: 1, {SECRET}: 2}}",
        f"\n    password: *{SECRET}",
        f"\n    password: !{SECRET}!x {SECRET}",
        f"\n    password: {SECRET}: {SECRET}",
        f"\n    ? {SECRET}\n    ? [{SECRET}]",
    ],
)
def test_a_secret_that_became_a_key_is_not_shown(slip: str, tmp_path: Path) -> None:
    _, error = outcome(f"api:\n  basic_auth: {slip}\n".encode(), tmp_path)
    assert error is not None
    assert PART not in str(error)
