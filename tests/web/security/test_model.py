"""The grammar of the web config: what it takes, what it refuses, and that no mistake quotes a secret."""

import os
import re
from pathlib import Path

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from sitecore_cdp_exporter.config.errors import error_lines
from sitecore_cdp_exporter.config.model import KNOWN_KEYS, ConfigError
from sitecore_cdp_exporter.config.yaml import YamlProblem
from sitecore_cdp_exporter.web.security.file import MAX_FILE_BYTES, load_web_config
from sitecore_cdp_exporter.web.security.model import _KNOWN_KEYS, WebConfig, parse_web_config
from tests.web.security.web_config_server import HASH, MUTUAL_TLS, TLS, USERS, Folder

# It stands wherever a secret can stand.
SECRET = "x5ecretx"
SALT_AND_HASH = HASH.rpartition("$")[2]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def parse(text: str) -> WebConfig:
    return parse_web_config(Path("web.yml"), text.encode()).config


def errors(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse(text)
    assert raised.value.__cause__ is None
    return list(raised.value.errors)


# What is taken


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "---\n",
            "# nothing\n",
            "{}",
            "tls_server_config:\n",
            "tls_server_config: {}\n",
            "basic_auth_users: {}\n",
        ),
        *("http_server_config:\n  headers:\n", "rate_limit:\n"),
    ],
)
def test_an_empty_config_enables_nothing(text: str) -> None:
    config = parse(text)
    assert (config.tls_server_config, config.basic_auth_users) == (None, {})
    assert config.http_server_config.headers.model_dump(exclude_none=True) == {}
    assert config.rate_limit.interval == 0


def test_paths_are_relative_to_the_file() -> None:
    path = Path("/etc/exporter/web.yml")
    text = f"{TLS}  client_ca_file: ../ca.crt\n  client_auth_type: VerifyClientCertIfGiven\n"
    tls = parse_web_config(path, text.encode()).config.tls_server_config
    assert tls is not None
    assert tls.cert_file == Path("/etc/exporter/server.crt")
    assert tls.client_ca_file == Path("/etc/exporter/../ca.crt")
    tls = parse("tls_server_config: {cert_file: /a.crt, key_file: b.key}").tls_server_config
    assert tls is not None
    assert (tls.cert_file, tls.key_file) == (Path("/a.crt"), Path("b.key"))


@pytest.mark.parametrize(
    "more",
    [
        *('client_auth_type: ""', "client_auth_type: NoClientCert", "client_auth_type: VerifyClientCertIfGiven"),
        *("min_version: TLS12", "min_version: TLS13", "max_version: TLS12", "min_version: TLS13\n  max_version: TLS13"),
        *("prefer_server_cipher_suites: true", "prefer_server_cipher_suites: false"),
        *("cipher_suites: []", "curve_preferences: []", "client_allowed_sans: []", "cipher_suites:"),
    ],
)
def test_tls_settings_of_existing_files_are_taken(more: str, folder: Folder) -> None:
    _, context = load_web_config(folder.write(f"{TLS}  {more}\n"))
    assert context is not None


def test_all_headers_of_the_toolkit_are_accepted_and_blank_ones_dropped() -> None:
    headers = parse(
        "http_server_config:\n  headers:\n    X-Frame-Options: sameorigin\n    X-Content-Type-Options: nosniff\n"
        "    X-XSS-Protection: 0\n    Strict-Transport-Security: max-age=1; includeSubDomains\n"
        '    Content-Security-Policy: ""\n'
    ).http_server_config.headers
    assert headers.model_dump(by_alias=True, exclude_none=True) == {
        "X-Frame-Options": "sameorigin",
        "X-Content-Type-Options": "nosniff",
        "X-XSS-Protection": "0",
        "Strict-Transport-Security": "max-age=1; includeSubDomains",
    }


@pytest.mark.parametrize("version", ["2a", "2b", "2x", "2y"])
@pytest.mark.parametrize("cost", ["04", "10", "18"])
def test_hashes_of_all_tools_are_taken(version: str, cost: str) -> None:
    assert parse(f"basic_auth_users: {{a: ${version}${cost}${SALT_AND_HASH}}}").basic_auth_users.keys() == {"a"}


@pytest.mark.parametrize("name", ["web-config.yml", "web-config-password.yml"])
def test_the_examples_load(name: str, folder: Folder) -> None:
    config, context = load_web_config(folder.use_example(name))
    assert context is not None
    assert "prometheus" in config.basic_auth_users


def test_http2_is_taken_with_one_warning(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    load_web_config(folder.write(f"{TLS}http_server_config: {{http2: true}}\n"))
    [record] = caplog.records
    assert (record.levelname, "HTTP/1.1 only" in record.message) == ("WARNING", True)


# What is refused


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("tls_sever_config:\n", "web.yml:1: tls_sever_config: unknown key; did you mean tls_server_config?"),
        (f"{TLS}  cert_fle: a\n", "web.yml:4: tls_server_config.cert_fle: unknown key; did you mean cert_file?"),
        ("rate_limit: {bust: 1}", "web.yml:1: rate_limit.bust: unknown key; did you mean burst?"),
        ("- a", "web.yml:1: expected a mapping"),
        ("tls_server_config: server.crt", "web.yml:1: tls_server_config: expected a mapping"),
        (f"{TLS}  cert_file: b\n", "web.yml:4: tls_server_config.cert_file: duplicate key; already on line 2"),
        # Templates that were not filled in must not switch off what they are for.
        (
            "tls_server_config: {cert_file: , key_file: k}",
            "cert_file is missing; TLS needs both cert_file and key_file",
        ),
        ("tls_server_config: {key_file: k}", "cert_file is missing; TLS needs both cert_file and key_file"),
        ("tls_server_config: {cert_file: c}", "key_file is missing; TLS needs both cert_file and key_file"),
        ("tls_server_config: {cert_file: c, key_file: ''}", ".key_file: expected the path of a file"),
        (f"{TLS}  cert: x\n", "web.yml:2: tls_server_config.cert_file: cannot be combined with cert; remove one"),
        (f"{TLS}  key: x\n", "web.yml:3: tls_server_config.key_file: cannot be combined with key; remove one"),
        (
            f"{MUTUAL_TLS}  client_ca: x\n",
            ":5: tls_server_config.client_ca_file: cannot be combined with client_ca; remove",
        ),
        (f"{TLS}  client_ca_file: c\n", ":4: tls_server_config.client_ca_file: needs a client_auth_type"),
        (f"{TLS}  client_ca: c\n", ":1: tls_server_config: needs a client_auth_type"),
        (f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n", "client_ca_file is missing; RequireAndVerify"),
        *[
            (f"{TLS}  client_auth_type: {name}\n", ":4: tls_server_config.client_auth_type: not supported, because")
            for name in ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")
        ],
        (f"{TLS}  client_auth_type: Verify\n", ":4: tls_server_config.client_auth_type: expected one of NoClientCert,"),
        (f"{TLS}  client_auth_type: true\n", ":4: tls_server_config.client_auth_type: expected a string"),
        (f"{TLS}  client_allowed_sans: [a]\n", ":4: tls_server_config.client_allowed_sans: not supported; remove it:"),
        (f"{TLS}  cipher_suites: [TLS_AES_128_GCM_SHA256]\n", ":4: tls_server_config.cipher_suites: not supported; re"),
        (f"{TLS}  curve_preferences: [X25519]\n", ":4: tls_server_config.curve_preferences: not supported; remove it"),
        *[
            (f"{TLS}  {key}: {name}\n", f":4: tls_server_config.{key}: not supported, because OpenSSL no longer")
            for key in ("min_version", "max_version")
            for name in ("TLS10", "TLS11")
        ],
        (f"{TLS}  min_version: TLS111\n", ":4: tls_server_config.min_version: expected TLS12 or TLS13"),
        (f"{TLS}  min_version: 1.2\n", ":4: tls_server_config.min_version: expected a string; put it in quotes"),
        (f"{TLS}  min_version: TLS13\n  max_version: TLS12\n", ".max_version: less than min_version"),
        (f"{TLS}  prefer_server_cipher_suites: 1\n", ".prefer_server_cipher_suites: expected true or false"),
        ("http_server_config: {http2: 'yes'}", "http_server_config.http2: expected true or false"),
        ("http_server_config: {headers: [a]}", "http_server_config.headers: expected a mapping"),
        (
            "http_server_config:\n  headers:\n    Server: a",
            ":3: http_server_config.headers.Server: unknown key; expect",
        ),
        ("http_server_config: {headers: {x-frame-options: deny}}", "did you mean X-Frame-Options?"),
        ("http_server_config: {headers: {X-Frame-Options: DENY}}", "X-Frame-Options: expected 'deny' or 'sameorigin'"),
        (
            "http_server_config: {headers: {X-Content-Type-Options: sniff}}",
            "X-Content-Type-Options: expected 'nosniff'",
        ),
        ('http_server_config: {headers: {X-XSS-Protection: "1\\r\\nSet-Cookie: a"}}', "expected printable ASCII"),
        ('http_server_config: {headers: {X-XSS-Protection: "ä"}}', "X-XSS-Protection: expected printable ASCII"),
        ("http_server_config: {headers: {X-XSS-Protection: true}}", "X-XSS-Protection: expected a string"),
        ("basic_auth_users: [a]", "web.yml:1: basic_auth_users: expected a mapping"),
        ("basic_auth_users:\n  a:\n", "web.yml:2: basic_auth_users.a: expected a string"),
        ("basic_auth_users: {1: x}", "basic_auth_users: a key that is not a string; quote it"),
        ("basic_auth_users:\n  a: doe\n", "web.yml:2: basic_auth_users.a: expected a bcrypt hash of 60 characters"),
        (f"basic_auth_users: {{'a:b': {HASH}}}", "basic_auth_users.<key>: must not contain a colon"),
        ("rate_limit: {interval: 1s}", "web.yml:1: rate_limit: burst is missing or 0, so that no request"),
        ("rate_limit: {interval: 1s, burst: 0}", "rate_limit.burst: burst is missing or 0, so that no request"),
        ("rate_limit: {interval: 1, burst: 1}", "rate_limit.interval: needs a unit"),
        ("rate_limit: {burst: -1}", "rate_limit.burst: expected at least 0"),
        ("a: b: c", "web.yml:1:5: not valid YAML"),
    ],
)
def test_a_mistake_is_reported_with_its_place(text: str, error: str) -> None:
    [message] = errors(text)
    assert error in message


def test_all_mistakes_are_reported_at_once() -> None:
    text = (
        "tls_server_config:\n  cert_file: c\n  min_version: TLS10\n  cipher_suites: [a]\n"
        "http_server_config:\n  headers:\n    X-Frame-Options: x\n"
        "basic_auth_users:\n  a: doe\n  b: $2y$99$x\nrate_limit: {burst: 1.5}\nmore: 1\n"
    )
    assert [int(line.split(":")[1]) for line in errors(text)] == [1, 3, 4, 7, 9, 10, 11, 12]


@pytest.mark.parametrize(
    "value",
    [
        *(HASH[:-1], f"{HASH}a", HASH.replace("$2b", "$2"), HASH.replace("$2b", "$2z"), HASH.replace("$2b", "$1")),
        *(HASH.replace("$04", "$4"), HASH[:-1] + "!", f" {HASH}", f"{HASH}\n", "", "ä" * 60, "x" * 60),
        HASH[:28] + "A" + HASH[29:],  # Two of the six bits of the salt's last character are left; these are others.
        *(HASH.replace("$04$", f"${cost}$") for cost in ("00", "03", "19", "31", "32", "99", "-4", "1e")),
    ],
)
def test_what_no_password_can_match_is_refused_without_quoting_it(value: str) -> None:
    quoted = value.replace("\n", "\\n")
    [message] = errors(f'basic_auth_users: {{a: "{quoted}"}}')
    assert "expected a bcrypt hash" in message
    assert SALT_AND_HASH[:8] not in message


@pytest.mark.parametrize(
    "text",
    [
        f"basic_auth_users: {{a: {SECRET}}}",
        f"basic_auth_users: {{a:{SECRET}1$}}",
        f"basic_auth_users: {SECRET}",
        f"basic_auth_users: [{SECRET}]",
        f"basic_auth_users: {{a: {{{SECRET}: b}}}}",
        f"basic_auth_users: {{a: {{b: {SECRET}}}}}",
        f"{TLS}  key: {SECRET}\n",
        f"{TLS}  key: [{SECRET}]\n",
        f"tls_server_config: {SECRET}",
        f"tls_server_config:\n  key: |\n    -----BEGIN PRIVATE KEY-----\n   {SECRET}\n",
        f"key: {SECRET}",
        f'{TLS}  min_version: "-----BEGIN PRIVATE KEY-----\\n{SECRET}"\n',
        f"- {SECRET}",
        f"{SECRET}\n{SECRET}",
        f"basic_auth_users:\n  a: *{SECRET}\n",
        f"basic_auth_users:\n  a: !{SECRET}\n",
        f"basic_auth_users:\n\ta: {SECRET}\n",
    ],
)
def test_no_mistake_quotes_a_secret(text: str) -> None:
    assert SECRET not in "\n".join(errors(text))


# All the ways in which a text of several lines, or what looks like one, can be written.
PEM_STYLES = {
    "literal": "|\n      -----BEGIN PRIVATE KEY-----\n      {secret}\n      -----END PRIVATE KEY-----\n",
    "folded": ">-\n      -----BEGIN PRIVATE KEY-----\n      {secret}\n",
    "plain": "-----BEGIN PRIVATE KEY-----\n      {secret}\n",
    "quoted": '"-----BEGIN PRIVATE KEY-----\\n{secret}\\n"\n',
    "quoted, over lines": '"-----BEGIN PRIVATE KEY-----\n      {secret}"\n',
    "in one line": "-----BEGIN PRIVATE KEY----- {secret}\n",
    "without its head": "|\n      {secret}\n      {secret}\n",
    "without its head, quoted": '"{secret}\\n{secret}"\n',
}


@pytest.mark.parametrize("key", ["cert_file", "key_file", "client_ca_file"])
@pytest.mark.parametrize("style", PEM_STYLES.values(), ids=PEM_STYLES)
def test_a_text_in_place_of_a_path_is_refused_without_quoting_it(key: str, style: str) -> None:
    paths = {"cert_file": "a\n", "key_file": "b\n", "client_ca_file": "c\n", key: style.format(secret=SECRET)}
    text = "tls_server_config:\n  client_auth_type: VerifyClientCertIfGiven\n" + "".join(
        f"  {name}: {value}" for name, value in paths.items()
    )
    [message] = errors(text)
    assert f"tls_server_config.{key}: expected the path of a file, not its content" in message
    assert SECRET not in message


def test_every_known_key_is_shown_by_its_name() -> None:
    keys = [key for known in (KNOWN_KEYS, _KNOWN_KEYS) for section in known.values() for key in section]
    for key in keys:
        assert error_lines(Path("web.yml"), [YamlProblem(1, (key,), "wrong")]) == [f"web.yml:1: {key}: wrong"]
    assert {"http2", "X-XSS-Protection", "ref_prefix"} <= set(keys)


def test_no_repr_shows_hash_or_key() -> None:
    config = parse(f"tls_server_config: {{cert: a, key: {SECRET}}}\n{USERS}")
    assert SECRET not in repr(config)
    assert SALT_AND_HASH not in repr(config)


@given(
    text=st.text(max_size=60), beginning=st.sampled_from(["", TLS, MUTUAL_TLS, USERS, "rate_limit: {", "http_server"])
)
@settings(max_examples=200, deadline=None)
def test_any_text_results_in_a_config_or_reported_mistakes(text: str, beginning: str) -> None:
    lines: tuple[str, ...] = ()
    try:
        parse(beginning + text)
    except ConfigError as error:
        lines = error.errors
    assert [line for line in lines if not re.match(r"web\.yml:\d+:", line)] == []


# The files that it names


def load_errors(folder: Folder, text: str = MUTUAL_TLS) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_web_config(folder.write(text))
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    assert "PRIVATE" not in str(raised.value)
    return [line.replace(f"{folder.path}/", "") for line in raised.value.errors]


def test_all_files_that_are_missing_are_named(folder: Folder) -> None:
    for name in ("server.crt", "server.key", "client_ca.crt"):
        (folder.path / name).unlink()
    missing = "cannot be read: No such file or directory"
    assert load_errors(folder) == [
        f"web.yml:2: tls_server_config.cert_file: {missing} (server.crt)",
        f"web.yml:3: tls_server_config.key_file: {missing} (server.key)",
        f"web.yml:5: tls_server_config.client_ca_file: {missing} (client_ca.crt)",
    ]


def test_files_may_be_missing_in_a_check_but_not_be_wrong(folder: Folder) -> None:
    (folder.path / "server.crt").unlink()
    _, context = load_web_config(folder.write(TLS), files_may_be_missing=True)
    assert context is None
    (folder.path / "server.key").unlink()
    (folder.path / "server.key").mkdir()
    with pytest.raises(ConfigError, match=r"server\.key"):
        load_web_config(folder.web_config, files_may_be_missing=True)


@pytest.mark.parametrize(
    "content", ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "ä"]
)
@pytest.mark.parametrize(
    ("name", "key", "line"), [("server.crt", "cert_file", 2), ("client_ca.crt", "client_ca_file", 5)]
)
def test_what_is_not_a_certificate_is_reported(folder: Folder, content: str, name: str, key: str, line: int) -> None:
    (folder.path / name).write_text(content, encoding="utf-8")
    message = f"web.yml:{line}: tls_server_config.{key}: holds no certificate, or a broken one; expected PEM"
    assert load_errors(folder) == [message]


def test_what_is_not_a_key_is_reported(folder: Folder) -> None:
    for content in ("", "garbage", (folder.path / "server.crt").read_text(encoding="ascii")):
        (folder.path / "server.key").write_text(content, encoding="ascii")
        [message] = load_errors(folder)
        assert message.startswith("web.yml:3: tls_server_config.key_file: holds no private key that can be read")


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(folder: Folder) -> None:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  trustme brings it along.

    key = serialization.load_pem_private_key((folder.path / "server.key").read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    (folder.path / "server.key").write_bytes(encrypted)
    [message] = load_errors(folder)
    assert "holds no private key that can be read without a password" in message


def test_the_key_of_another_certificate_is_refused(folder: Folder) -> None:
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(str(folder.path / "server.key"))
    assert load_errors(folder) == ["web.yml:3: tls_server_config.key_file: does not belong to the certificate"]


@pytest.mark.parametrize("name", ["server.crt", "server.key", "client_ca.crt", "web.yml"])
def test_a_large_or_special_file_is_refused(folder: Folder, name: str) -> None:
    folder.write(MUTUAL_TLS)
    path = folder.path / name
    path.write_bytes(bytes(MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load_web_config(folder.web_config)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory|not a file"):
        load_web_config(folder.web_config)


def test_a_missing_web_config_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load_web_config(tmp_path / "none.yml")
    assert raised.value.errors == (f"{tmp_path}/none.yml: cannot be read: No such file or directory",)


@pytest.fixture
def inline(folder: Folder) -> str:
    """Return a web config that has certificates and key as texts; the files are gone."""
    text = "tls_server_config:\n  client_auth_type: RequireAndVerifyClientCert\n"
    for key, name in (("cert", "server.crt"), ("key", "server.key"), ("client_ca", "client_ca.crt")):
        pem = (folder.path / name).read_text(encoding="ascii").replace("\n", "\n    ")
        text += f"  {key}: |\n    {pem}\n"
        (folder.path / name).unlink()
    return text


def test_certificate_and_keys_may_stand_in_the_file(folder: Folder, inline: str) -> None:
    _, context = load_web_config(folder.write(inline))
    assert context is not None
    assert len(context.get_ca_certs()) == 1


def test_where_there_are_no_files_in_memory_the_texts_are_reported(
    folder: Folder, inline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    lines = inline.splitlines()
    assert load_errors(folder, inline) == [
        f"web.yml:{lines.index(f'  {key}: |') + 1}: tls_server_config.{key}: works on Linux only; use {key}_file"
        for key in ("cert", "key")
    ]


def test_authorities_may_stand_in_the_file_everywhere(
    folder: Folder, inline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    folder.renew_all()
    authorities = inline[inline.index("  client_ca: |") :]
    _, context = load_web_config(folder.write(f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n{authorities}"))
    assert context is not None
