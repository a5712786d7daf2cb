"""A table of mistakes in a config file, and of the lines that each of them gives."""

import re
from pathlib import Path

import pytest

from sitecore_cdp_exporter.config.model import ConfigError, load_config

REF = "12af3453-62da-4b31-b646-631b7b5f3009"
API = """\
api:
  base_url: https://api-engage-eu.sitecorecloud.io
"""

HOST = "expected a host such as *.s3.amazonaws.com, where * stands for one label, without https://"
DURATION = "expected a duration such as 5s, 1m30s or 500ms; the units are y w d h m s ms, in this order"
UUID = "expected a UUID such as 12af3453-62da-4b31-b646-631b7b5f3009"
URL = "expected a URL such as https://host or https://host:8443"
HTTPS = "expected https://; http:// is for loopback hosts only, because it would send the token in plain text"
NAME = "must have at least one character, and no control characters"
PREFIX = "expected at least 8 hex digits that a UUID begins with, such as 5a0c2f0e or 5a0c2f0e-6d0b"
RESERVED = (
    "this label name is reserved, like ref, feed, status, reason, cause, kind, of, result, field, job, "
    "instance, le, alertname, alertstate, severity, why and all that start with __"
)
LABEL = "a label name has only letters, digits and _, and does not start with a digit"
BROKEN = "; check the indentation (no tabs), and put values with special characters in quotes"
ENTRY = "expected a ref, or a mapping with ref, feed, labels and replaces"
BASIC_AUTH = "unknown key; expected one of username, username_file, password, password_file"
CLOCK = '      time: "23:30"\n      '
TIME = 'expected a time of the day from "00:00" to "23:59", in quotes'
WRONG_TIMES = ("08h30", "'24:00'", "'23:60'", "'8:30'", "'23:30:00'", "' 23:30'", "'٠٨:٣٠'", "2330", "true", "[1]")
ZONE = "unknown time zone; expected a name of the IANA database such as Europe/Berlin or UTC"
WRONG_ZONES = (
    "Europe/Bonn",
    "Europe",
    "localtime",
    "right/Europe/Berlin",
    "posix/UTC",
    "../UTC",
    "/etc/localtime",
    "+02:00",
    "CEST",
    "2",
    "'\\0'",
    "''",
    "[UTC]",
)

# By what comes before it in the file: a text, and the lines that it gives without the path of the file.
MISTAKES: dict[str, list[tuple[str, ...]]] = {
    "": [
        ("batches:\n  - 12af3453-62da-4b31-b646-631b7b5f3009", "1: api: is missing"),
        ("", "1: no settings; at least api.base_url is needed"),
        ("# Nothing yet.", "1: no settings; at least api.base_url is needed"),
        ("api:", "1: api: is missing"),
        ("api: https://api-engage-eu.sitecorecloud.io", "1: api: expected a mapping"),
        ("api:\n  base_url: https://api-engage-eu.sitecorecloud.io:https", "2: api.base_url: not a valid URL"),
        ("api:\n  base_url:", "2: api.base_url: is missing"),
        (
            "api:\n  base_url: https://api-engage-eu.sitecorecloud.io/#top",
            "2: api.base_url: must not have a query or a fragment",
        ),
        ("api:\n  base_url: ftp://api-engage-eu.sitecorecloud.io", f"2: api.base_url: {URL}"),
        ("api:\n  base_url: http://localhost.example.com", f"2: api.base_url: {HTTPS}"),
        ("api:\n  base_url: http://api-engage-eu.sitecorecloud.io", f"2: api.base_url: {HTTPS}"),
        ("api:\n  base_url: [https://api-engage-eu.sitecorecloud.io]", "2: api.base_url: expected a string"),
        (
            "api:\n  base_url: https://api-engage-eu.sitecorecloud.io/v2/batches",
            (
                "2: api.base_url: must end before /v2, because the exporter adds /v2/batches; "
                "remove /v2 and what follows it"
            ),
        ),
        (
            "api:\n  proxy_url: http://proxy.example:3128\n  base_url: http://127.0.0.1:8080",
            "2: api.proxy_url: cannot be combined with an http:// base_url, which is on this machine; remove it",
        ),
        ("api:\n  timeout: 5s", "1: api.base_url: is missing"),
        ("api:\n  base_url: https:///v2", f"2: api.base_url: {URL}"),
        ("api:\n  base_url: api-engage-eu.sitecorecloud.io", f"2: api.base_url: {URL}"),
        (
            "api:\n  base_url: https://api-engage-eu.sitecorecloud.io/?token=hunter2",
            "2: api.base_url: must not have a query or a fragment",
        ),
        ("api:\n  base_url: https://api-engage-eu.sitecore cloud.io", f"2: api.base_url: {URL}"),
        (
            "api:\n  base_url: https://key:hunter2@api-engage-eu.sitecorecloud.io",
            "2: api.base_url: must not contain credentials; they belong in api.basic_auth",
        ),
        (
            "discovery: {enabled: true}",
            "1: api: is missing",
            "1: discovery.enabled: needs api.endpoint: inspect, whose list it reads",
        ),
        (
            (
                "base_url: https://api-engage-eu.sitecorecloud.io\n"
                "api:\n"
                "  base_url: https://api-engage-eu.sitecorecloud.io"
            ),
            (
                "1: base_url: unknown key; expected one of api, batches, batch_files, retention, "
                "recheck_finished, discovery, feeds, error_logs"
            ),
        ),
        (
            (
                "api:\n"
                "  base_url: http://api.example.com\n"
                "  timeout: 5\n"
                "  concurency: 4\n"
                "  tls_config: {insecure_skip_verify: maybe}\n"
                "batches:\n"
                "  - 12af3453-62da-4b31-b646-631b7b5f3009\n"
                "  - ref: nightly\n"
                "    labels: {job: crm, team: 7, team: web}\n"
                "  - 12af3453-62da-4b31-b646-631b7b5f3009\n"
                "recheck_finished: daily"
            ),
            f"2: api.base_url: {HTTPS}",
            "3: api.timeout: needs a unit; write 5s for five seconds",
            "4: api.concurency: unknown key; did you mean concurrency?",
            "5: api.tls_config.insecure_skip_verify: expected true or false",
            f"8: batches[1].ref: {UUID}",
            "9: batches[1].labels.team: duplicate key; already on line 9",
            f"9: batches[1].labels.job: {RESERVED}",
            "9: batches[1].labels.team: expected a string; put it in quotes",
            "10: batches[2]: duplicate ref; already on line 7",
            f"11: recheck_finished: {DURATION}",
        ),
        ("- 12af3453-62da-4b31-b646-631b7b5f3009", "1: expected a mapping"),
        ("base_url", "1: expected a mapping"),
        (
            "api:\n  Base_URL: https://api-engage-eu.sitecorecloud.io",
            "1: api.base_url: is missing",
            "2: api.Base_URL: unknown key; did you mean base_url?",
        ),
        (
            "api:\n    base_url: https://api-engage-eu.sitecorecloud.io\n  timeout: 5s",
            (
                "3:3: not valid YAML: did not find expected key while parsing a block mapping that starts on line 1"
                f"{BROKEN}"
            ),
        ),
        (
            "api:\n\tbase_url: https://api-engage-eu.sitecorecloud.io",
            f"2:1: not valid YAML: found character that cannot start any token{BROKEN}",
        ),
    ],
    API: [
        ("  basic_auth: key:hunter2", "3: api.basic_auth: expected a mapping"),
        (
            "  tls_config:\n    ca_file: ca.pem\n    cert_file: client.pem",
            "5: api.tls_config.cert_file: needs key_file, which is missing",
        ),
        ("  concurrency: yes", "3: api.concurrency: expected a whole number"),
        ("  concurrency: 1.5", "3: api.concurrency: expected a whole number"),
        ("  concurrency: '16'", "3: api.concurrency: expected a whole number"),
        ("  concurrency: 257", "3: api.concurrency: expected at most 256"),
        ("  concurrency: 0", "3: api.concurrency: expected at least 1"),
        ('  endpoint: inspect\ndiscovery: {enabled: "true"}', "4: discovery.enabled: expected true or false"),
        (
            "  endpoint: inspect\ndiscovery:\n  enabled: true\n  max_batches: 10001",
            "6: discovery.max_batches: expected at most 10000",
        ),
        (
            "  endpoint: inspect\ndiscovery: {enabled: true, max_batches: 0}",
            "4: discovery.max_batches: expected at least 1",
        ),
        ("  endpoint: list\ndiscovery: {enabled: true}", "3: api.endpoint: expected 'batches' or 'inspect'"),
        (
            "  endpoint: batches\ndiscovery: {enabled: yes}",
            "4: discovery.enabled: needs api.endpoint: inspect, whose list it reads",
        ),
        ("  endpoint: list", "3: api.endpoint: expected 'batches' or 'inspect'"),
        (
            "  tls_config: {insecure_skip_verify: 'true'}",
            "3: api.tls_config.insecure_skip_verify: expected true or false",
        ),
        (
            "  tls_config:\n    key_file: client.key",
            "4: api.tls_config.key_file: needs cert_file, which is missing",
        ),
        (
            '  tls_config:\n    ca_file: "ca\\e.pem"',
            "4: api.tls_config.ca_file: expected the path of a file, not its content",
        ),
        (
            '  tls_config:\n    cert_file: client.crt\n    key_file: "-----BEGIN PRIVATE KEY-----\\nnot-a-secret"',
            "5: api.tls_config.key_file: expected the path of a file, not its content",
        ),
        (
            "  tls_config:\n    ca_file: -----BEGIN CERTIFICATE----- not-a-secret",
            "4: api.tls_config.ca_file: expected the path of a file, not its content",
        ),
        (
            "  proxy_url: http://key:hunter2@proxy.example:3128\n  proxy_from_environment: true",
            "4: api.proxy_from_environment: cannot be combined with proxy_url; remove one of the two",
        ),
        ("  proxy_url: socks5://proxy.example:1080", f"3: api.proxy_url: {URL}"),
        ("  proxy_url: ftp://key:hunter2@proxy.example", f"3: api.proxy_url: {URL}"),
        ("  basic_auth: {password: &token hunter2}\n  timeout: *token", f"4: api.timeout: {DURATION}"),
        ("  timeout: true", f"3: api.timeout: {DURATION}"),
        ("  timeout: 0.5s", f"3: api.timeout: {DURATION}"),
        ("  timeout: 0.5", "3: api.timeout: needs a unit; write 5s for five seconds"),
        ("  timeout: 5", "3: api.timeout: needs a unit; write 5s for five seconds"),
        ("  timeout: |\n    5s\n    hunter2", f"3: api.timeout: {DURATION}"),
        (
            "  timeout: 1:30",
            (
                "3: api.timeout: YAML reads digits with colons in base 60; write a duration as 1m30s, and a time in "
                "quotes; put it in quotes if it is text"
            ),
        ),
        ("  timeout: 2m1ms", "3: api.timeout: expected more than 0s and at most 2m"),
        ("  timeout: 5 seconds", f"3: api.timeout: {DURATION}"),
        ("  timeout: 30s1m", f"3: api.timeout: {DURATION}"),
        ("  timeout: 0s", "3: api.timeout: expected more than 0s and at most 2m"),
        (
            "batch_files:\n  - batches.d/*.yaml\n  - tonight.yaml\n  - ./batches.d//*.yaml",
            "6: batch_files[2]: duplicate; already on line 4",
        ),
        ('batch_files:\n  - ""', "4: batch_files[0]: expected the path of a file, or a glob"),
        ('batch_files: ["batches.d/\\0.yaml"]', "3: batch_files[0]: expected the path of a file, or a glob"),
        (
            "batch_files: [batches.d/]",
            "3: batch_files[0]: expected files, not a folder; write folder/*.yaml for the files in it",
        ),
        ("batch_files:\n  -", "4: batch_files[0]: expected a string"),
        ("batch_files: [7]", "3: batch_files[0]: expected a string; put it in quotes"),
        (
            'batch_files: ["batches.d/**/*.yaml"]',
            "3: batch_files[0]: ** is not supported; name the folders, or write * for one level",
        ),
        ("batch_files: batches.d/*.yaml", "3: batch_files: expected a list"),
        ("batches: 12af3453-62da-4b31-b646-631b7b5f3009", "3: batches: expected a list"),
        ("discovery: true", "3: discovery: expected a mapping"),
        (
            "discovery:\n  max_batches: 50\n  enabled: true",
            "5: discovery.enabled: needs api.endpoint: inspect, whose list it reads",
        ),
        ("feeds: {nightly-guests: {}}", "3: feeds: expected a list"),
        ("error_logs: false", "3: error_logs: expected a mapping"),
        ("error_logs: {enable: false}", "3: error_logs.enable: unknown key; did you mean enabled?"),
        (
            "error_logs: {hosts: []}",
            "3: error_logs.hosts: must not be empty; write enabled: false to read no error log",
        ),
        ("error_logs: {hosts: '*.s3.amazonaws.com'}", "3: error_logs.hosts: expected a list"),
        ("error_logs: {hosts: [https://storage.example]}", f"3: error_logs.hosts[0]: {HOST}"),
        ("error_logs: {hosts: [storage.example, 'storage.example:443']}", f"3: error_logs.hosts[1]: {HOST}"),
        ("error_logs: {hosts: [storage.example/logs]}", f"3: error_logs.hosts[0]: {HOST}"),
        ("error_logs: {hosts: ['*']}", f"3: error_logs.hosts[0]: {HOST}"),
        ("error_logs: {hosts: ['*.com']}", f"3: error_logs.hosts[0]: {HOST}"),
        ("error_logs: {hosts: ['logs*.storage.example']}", f"3: error_logs.hosts[0]: {HOST}"),
        ("error_logs: {hosts: ['key@storage.example']}", f"3: error_logs.hosts[0]: {HOST}"),
        ("error_logs: {hosts: ['192.0.2.7']}", f"3: error_logs.hosts[0]: {HOST}"),
        ("error_logs: {hosts: ['[2001:db8::7]']}", f"3: error_logs.hosts[0]: {HOST}"),
        ("recheck_finished: -1h", f"3: recheck_finished: {DURATION}"),
        ("recheck_finished: 293y", "3: recheck_finished: expected a duration of at most 292y"),
        ("retention: {succeeded: 24}", "3: retention.succeeded: needs a unit; write 5s for five seconds"),
        ("retention: 24h", "3: retention: expected a mapping"),
        ("retention:\n  success: 24h", "4: retention.success: unknown key; did you mean succeeded?"),
        ("retention:\n  failed: forever", f"4: retention.failed: {DURATION}"),
        ("  timeout: 5s\n  timeout: 10s", "4: api.timeout: duplicate key; already on line 3"),
        (
            (
                "  tls_config: {ca_file: ca.pem}\n"
                "  basic_auth: {username_file: key}\n"
                "  tls_config: {insecure_skip_verify: true}"
            ),
            "5: api.tls_config: duplicate key; already on line 3",
        ),
        ("? {a: b}\n: c", "3: a key that is not a string; quote it if it is meant to be one"),
        (
            "---\napi:\n  base_url: https://api-engage-eu.sitecorecloud.io",
            "3: a second YAML document begins here; expected only one",
        ),
        ("  time_out: 5s", "3: api.time_out: unknown key; did you mean timeout?"),
        ("  basic_auth: {password:hunter2}", "3: api.basic_auth.<key>: unknown key; did you mean password?"),
        ("  basic_auth: {correcthorse}", f"3: api.basic_auth.<key>: {BASIC_AUTH}"),
        (
            "retry: 3",
            (
                "3: retry: unknown key; expected one of api, batches, batch_files, retention, recheck_finished, "
                "discovery, feeds, error_logs"
            ),
        ),
        (
            "batches: &all\n  - *all",
            "4: batches[0]: an alias without an anchor above it; quote a value that begins with *",
        ),
        ("batches: *nightly", "3: batches: an alias without an anchor above it; quote a value that begins with *"),
        (
            "batches: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
            f"3:42: not valid YAML: nested too deeply{BROKEN}",
        ),
        ("  <<: hunter2", "3: api: << expects a mapping or a list of mappings"),
        (
            "  concurrency: 0x" + "F" * 5000,
            (
                "3: api.concurrency: write the number in decimal, not in binary or hexadecimal; put "
                "it in quotes if it is text"
            ),
        ),
        (
            "  concurrency: " + "9" * 5000,
            "3: api.concurrency: a number with too many digits; put it in quotes if it is text",
        ),
        (
            "  endpoint: !!binary YmF0Y2hlcw==",
            "3: api.endpoint: YAML tags are not supported; quote a value that begins with !",
        ),
        (
            "batches: !!python/object/apply:os.system ['echo hunter2']",
            "3: batches: YAML tags are not supported; quote a value that begins with !",
        ),
        (
            "recheck_finished: !!timestamp 2024-01-01",
            "3: recheck_finished: YAML tags are not supported; quote a value that begins with !",
        ),
    ],
    f"{API}  basic_auth:\n": [
        (
            "    password: &hunter2",
            "4: api.basic_auth.password: an anchor without a value; quote a value that begins with &",
        ),
        ("    password: @hunter2", f"4:15: not valid YAML: found character that cannot start any token{BROKEN}"),
        ("    password: hunter: 2", f"4:21: not valid YAML: mapping values are not allowed in this context{BROKEN}"),
        ("    password: ''", "4: api.basic_auth.password: must not be empty"),
        (
            "    password: !hunter2",
            "4: api.basic_auth.password: YAML tags are not supported; quote a value that begins with !",
        ),
        ("    password_file: true", "4: api.basic_auth.password_file: expected a string; put it in quotes"),
        ("    password_file: ''", "4: api.basic_auth.password_file: expected the path of a file"),
        (
            "    password_file: |\n      not-a-secret",
            "4: api.basic_auth.password_file: expected the path of a file, not its content",
        ),
        (
            "    password: |\n      hunter2",
            "4: api.basic_auth.password: must not contain a line break or another control character",
        ),
        ("    password: [hunter2]", "4: api.basic_auth.password: expected a string"),
        ("    password: 123456", "4: api.basic_auth.password: expected a string; put it in quotes"),
        (
            '    password: "hunter2',
            (
                "5:1: not valid YAML: found unexpected end of stream while scanning a quoted scalar "
                "that starts on line 4"
                f"{BROKEN}"
            ),
        ),
        ("    password: %hunter2", f"4:15: not valid YAML: found character that cannot start any token{BROKEN}"),
        (
            "    password: *hunter2",
            "4: api.basic_auth.password: an alias without an anchor above it; quote a value that begins with *",
        ),
        (
            "    password_file: token.txt\n    password: hunter2",
            "4: api.basic_auth.password_file: cannot be combined with password; remove one of the two",
        ),
        ("    api_token: hunter2", f"4: api.basic_auth.api_token: {BASIC_AUTH}"),
        (
            "    username: key:hunter2",
            "4: api.basic_auth.username: must not contain a colon, which ends the user name in basic authentication",
        ),
        (
            "    username: key\n    username_file: key.txt",
            "5: api.basic_auth.username_file: cannot be combined with username; remove one of the two",
        ),
    ],
    f"{API}batches:\n": [
        ("  - [12af3453-62da-4b31-b646-631b7b5f3009]", f"4: batches[0]: {ENTRY}"),
        ("  -", f"4: batches[0]: {ENTRY}"),
        ("  - 12", f"4: batches[0]: {ENTRY}"),
        ("  ref: 12af3453-62da-4b31-b646-631b7b5f3009", "3: batches: expected a list"),
        ('  - ref: "12af3453\\n\\e[31m62da"', f"4: batches[0].ref: {UUID}"),
        (
            "  - 12af3453-62da-4b31-b646-631b7b5f3009\n  - ref: 12af3453-62da-4b31-b646-631b7b5f3009\n    feed: ''",
            "5: batches[1].ref: duplicate ref; already on line 4",
            f"6: batches[1].feed: {NAME}",
        ),
        (
            "  - 12af3453-62da-4b31-b646-631b7b5f3009\n  - ref: 12AF3453-62DA-4B31-B646-631B7B5F3009",
            "5: batches[1].ref: duplicate ref; already on line 4",
        ),
        ("  - ref: '{12af3453-62da-4b31-b646-631b7b5f3009}'", f"4: batches[0].ref: {UUID}"),
        (f"  - {REF}-12af", f"4: batches[0]: {UUID}"),
        ("  - feed: nightly-guests", "4: batches[0].ref: is missing"),
        ("  - 12af3453-62da-4b31-b646", f"4: batches[0]: {UUID}"),
        ("  - ref: 12af345362da4b31b646631b7b5f3009", f"4: batches[0].ref: {UUID}"),
    ],
    f"{API}batches:\n  - ref: {REF}\n": [
        (
            "    labels: {team: crm, tier: gold, team: web}",
            "5: batches[0].labels.team: duplicate key; already on line 5",
        ),
        ('    feed: "nightly\\tguests"', f"5: batches[0].feed: {NAME}"),
        ("    feed: ''", f"5: batches[0].feed: {NAME}"),
        ("    feed: 7", "5: batches[0].feed: expected a string; put it in quotes"),
        ("    labels: [team]", "5: batches[0].labels: expected a mapping"),
        (f"    replaces: {REF}", "5: batches[0].replaces: expected a list"),
        (f"    replaces: [{REF}]", "5: batches[0].replaces: must name other batches, not this one"),
        (f"    replaces:\n      - {REF.upper()}", "5: batches[0].replaces: must name other batches, not this one"),
        (
            "    replaces:\n      - nightly\n      - 7",
            f"6: batches[0].replaces[0]: {UUID}",
            "7: batches[0].replaces[1]: expected a string; put it in quotes",
        ),
    ],
    f"{API}batches:\n  - ref: {REF}\n    labels:\n": [
        ("      on: x", "6: batches[0].labels: a key that is not a string; quote it if it is meant to be one"),
        (
            "      team-name: crm",
            f"6: batches[0].labels.team-name: {LABEL}",
        ),
        (
            "      1st: x",
            f"6: batches[0].labels.1st: {LABEL}",
        ),
        ("      __name__: x", f"6: batches[0].labels.__name__: {RESERVED}"),
        ("      password: 1234", "6: batches[0].labels.password: expected a string; put it in quotes"),
        ("      severity: page", f"6: batches[0].labels.severity: {RESERVED}"),
        (
            "      équipe: crm",
            f"6: batches[0].labels.équipe: {LABEL}",
        ),
        ("      team: no", "6: batches[0].labels.team: expected a string; put it in quotes"),
        ("      team: {name: crm}", "6: batches[0].labels.team: expected a string"),
        ("      team:", "6: batches[0].labels.team: expected a string"),
        ("      team: 7", "6: batches[0].labels.team: expected a string; put it in quotes"),
    ],
    f"{API}feeds:\n": [
        ('  - name: ""', f"4: feeds[0].name: {NAME}"),
        ("  - min_records: 1", "4: feeds[0].name: is missing"),
        ("  - name: 7", "4: feeds[0].name: expected a string; put it in quotes"),
        (
            (
                "  - ref_prefix: 5a0c2f0e6d0b\n"
                "  - name: orders\n"
                "    ref_prefix: 5a0c2f0f\n"
                "  - name: guests\n"
                "    ref_prefix: 5a0c2f0e-"
            ),
            "4: feeds[0].name: is missing",
            "8: feeds[2].ref_prefix: overlaps with feeds[0].ref_prefix: a ref could belong to both feeds",
        ),
        ("  - nightly-guests", "4: feeds[0]: expected a mapping"),
    ],
    f"{API}feeds:\n  - name: guests\n": [
        ("    expect_success_every: daily\n    grace: 3h", f"5: feeds[0].expect_success_every: {DURATION}"),
        ("    expect_success_every: 0s", "5: feeds[0].expect_success_every: expected more than 0s"),
        (
            "    grace: 3h",
            "5: feeds[0].grace: needs expect_success_every or expect_success_by",
        ),
        ("    labels: {severity: page}", f"5: feeds[0].labels.severity: {RESERVED}"),
        ("    min_records: 1.5", "5: feeds[0].min_records: expected a whole number"),
        ("    min_records: 1000000001", "5: feeds[0].min_records: expected at most 1000000000"),
        (
            "    min_records: 0100",
            (
                "5: feeds[0].min_records: a leading zero makes a number octal in YAML; write it without the zero; "
                "put it in quotes if it is text"
            ),
        ),
        ("    min_records: -1", "5: feeds[0].min_records: expected at least 0"),
        (
            "    min_records: many\n  - name: orders\n  - name: guests",
            "5: feeds[0].min_records: expected a whole number",
            "7: feeds[2].name: duplicate name; already on line 4",
        ),
        ("    next_success_resolves: always", "5: feeds[0].next_success_resolves: expected true or false"),
        ("    ref_prefix: 5a0c-2f0e", f"5: feeds[0].ref_prefix: {PREFIX}"),
        ("    ref_prefix: 12af3453-62da-4b31-b646-631b7b5f30091", f"5: feeds[0].ref_prefix: {PREFIX}"),
        (
            "    ref_prefix: 5a0c2f0e\n  - name: orders\n    ref_prefix: 5a0c2f0e6\n    grace: 1h",
            "7: feeds[1].ref_prefix: overlaps with feeds[0].ref_prefix: a ref could belong to both feeds",
            "8: feeds[1].grace: needs expect_success_every or expect_success_by",
        ),
        ("    ref_prefix: nightly-", f"5: feeds[0].ref_prefix: {PREFIX}"),
        ("    ref_prefix: 12345678", "5: feeds[0].ref_prefix: expected a string; put it in quotes"),
        (
            "    ref_prefix: 5a0c2f0e-6d0b\n  - name: orders\n    ref_prefix: 5A0C2F0E6D0B",
            "7: feeds[1].ref_prefix: overlaps with feeds[0].ref_prefix: a ref could belong to both feeds",
        ),
        ("    ref_prefix: 5a0c2f0", f"5: feeds[0].ref_prefix: {PREFIX}"),
        ("    max_failed_ratio: true", "5: feeds[0].max_failed_ratio: expected a number"),
        (
            "    max_failed_ratio: -0.1",
            "5: feeds[0].max_failed_ratio: expected a number from 0 to 1; write 0.05 for five percent",
        ),
        (
            "    max_failed_ratio: .nan",
            "5: feeds[0].max_failed_ratio: expected a number from 0 to 1; write 0.05 for five percent",
        ),
        (
            "    max_failed_ratio: 1.01",
            "5: feeds[0].max_failed_ratio: expected a number from 0 to 1; write 0.05 for five percent",
        ),
        ("    max_failed_ratio: 5%", "5: feeds[0].max_failed_ratio: expected a number"),
        (
            "    max_failed_ratio: 5",
            "5: feeds[0].max_failed_ratio: expected a number from 0 to 1; write 0.05 for five percent",
        ),
        ('    max_failed_ratio: "0.1"', "5: feeds[0].max_failed_ratio: expected a number"),
        (
            "    interval: 24h",
            (
                "5: feeds[0].interval: unknown key; expected one of name, labels, expect_success_every, "
                "expect_success_by, grace, max_failed_ratio, min_records, next_success_resolves, ref_prefix"
            ),
        ),
    ],
    f"{API}feeds:\n  - name: guests\n    expect_success_by:\n": [
        (
            "      time: 23:30",
            (
                "6: feeds[0].expect_success_by.time: YAML reads digits with colons in base 60; write a duration as "
                "1m30s, and a time in quotes; put it in quotes if it is text"
            ),
        ),
        *((f"      time: {time}", f"6: feeds[0].expect_success_by.time: {TIME}") for time in WRONG_TIMES),
        ("      days: [mon]", "5: feeds[0].expect_success_by.time: is missing"),
        (
            f"{CLOCK}days: [mon, monday]",
            ("7: feeds[0].expect_success_by.days[1]: expected 'mon', 'tue', 'wed', 'thu', 'fri', 'sat' or 'sun'"),
        ),
        (
            f"{CLOCK}days: []",
            "7: feeds[0].expect_success_by.days: must not be empty; leave it out for every day of the week",
        ),
        (f"{CLOCK}days: mon", "7: feeds[0].expect_success_by.days: expected a list"),
        *((f"{CLOCK}timezone: {zone}", f"7: feeds[0].expect_success_by.timezone: {ZONE}") for zone in WRONG_ZONES),
        (f"{CLOCK}window: 6", "7: feeds[0].expect_success_by.window: needs a unit; write 5s for five seconds"),
        (f"{CLOCK}window: 0s", "7: feeds[0].expect_success_by.window: expected more than 0s"),
        (
            f"{CLOCK}except:\n        - 2026-12-25\n        - 2026-02-30\n        - 25.12.2026",
            "9: feeds[0].expect_success_by.except[1]: expected a date such as 2026-12-25",
            "10: feeds[0].expect_success_by.except[2]: expected a date such as 2026-12-25",
        ),
        *(
            (f"{CLOCK}except: [{date}]", "7: feeds[0].expect_success_by.except[0]: expected a date such as 2026-12-25")
            for date in ("20261225", "'20261225'", "2026-W52-5", "2026-12-25T00:00:00", "tomorrow", "true", "{a: 1}")
        ),
        (f"{CLOCK}except: 2026-12-25", "7: feeds[0].expect_success_by.except: expected a list"),
        (
            f"{CLOCK}excepts: [2026-12-25]",
            ("7: feeds[0].expect_success_by.excepts: unknown key; did you mean except?"),
        ),
        (
            f"{CLOCK}tz: UTC",
            "7: feeds[0].expect_success_by.tz: unknown key; expected one of time, days, timezone, window, except",
        ),
        (
            f"{CLOCK}days:\n    expect_success_every: 24h",
            "5: feeds[0].expect_success_by: cannot be combined with expect_success_every; remove one of the two",
        ),
        (
            "      time: noon\n    grace: 3h",
            f"6: feeds[0].expect_success_by.time: {TIME}",
        ),
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all rows: each writes the same file."""
    return tmp_path_factory.mktemp("config")


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        pytest.param(f"{head}{text}\n", errors, id=text.strip()[:60])
        for head, rows in MISTAKES.items()
        for text, *errors in rows
    ],
)
def test_a_mistake_gives_exactly_these_lines(text: str, errors: list[str], folder: Path) -> None:
    path = folder / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert list(raised.value.errors) == [f"{path}:{error}" for error in errors]
    assert str(raised.value) == "\n".join(raised.value.errors)
    assert not re.search("hunter2|correcthorse", str(raised.value))
