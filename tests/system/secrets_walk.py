"""The real program, at every log level, led through all that can go wrong; its outputs and requests are kept."""

import asyncio
import json
import signal
import socket
import ssl
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bcrypt
import requests
import yaml

from sitecore_cdp_exporter.poll.batch_log import MAX_LOGGED
from tests.system import secrets_planted as planted
from tests.system.secrets_planted import FOREIGN, LOG_PATH, MISPLACED, UPLOAD_PATH, batch_answer, core
from tests.system.secrets_program import FAULTY_REF
from tests.system.secrets_recorder import Recorder
from tests.web.security.web_config_server import TLS, Folder
from tools.exporter_program import ROOT
from tools.program import Program, running, wait_for
from tools.raw_server import Proxy, RawServer
from tools.sandbox import Sandbox, faults

PATIENCE = 60.0
WEB_USER = "prometheus"
NOT_RELOADED = "cannot reload the web config"
LEVELS = (("debug", "logfmt"), ("info", "json"), ("warn", "logfmt"), ("error", "json"))
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
GOOD_REF, UNKNOWN_REF = "00000000-0000-4000-8000-0000000000ff", "00000000-0000-4000-8000-0000000000fe"
HASH = bcrypt.hashpw(planted.WEB_PASSWORD.encode(), bcrypt.gensalt(4)).decode()

# Configs with secrets where they do not belong, or where they do beside a mistake.
BAD_CONFIGS = {
    "credentials in base_url": f"api: {{base_url: 'https://user:{MISPLACED}@api.example'}}",
    "query in base_url": f"api: {{base_url: 'https://api.example/?token={MISPLACED}'}}",
    "http and credentials": f"api: {{base_url: 'http://user:{MISPLACED}@api.example'}}",
    "one level too high": f"api: {{base_url: 'https://api.example', password: {MISPLACED}}}",
    "at the top": f"password: {MISPLACED}\napi_token: {MISPLACED}",
    "alone": f"{MISPLACED}",
    "in place of a mapping": f"api: {{base_url: 'https://api.example', basic_auth: {MISPLACED}}}",
    "without a space": f"api: {{base_url: 'https://api.example', basic_auth: {{password:{MISPLACED}}}}}",
    "a list": f"api: {{base_url: 'https://api.example', basic_auth: {{password: [{MISPLACED}]}}}}",
    "twice": f"api: {{basic_auth: {{password: {MISPLACED}, password: {MISPLACED}}}}}",
    "with its file": f"api: {{basic_auth: {{password: {MISPLACED}, password_file: a}}}}",
    "colon": f"api: {{basic_auth: {{username: 'a:{MISPLACED}'}}}}",
    "control character": f'api: {{basic_auth: {{password: "{MISPLACED}\\n"}}}}',
    "not quoted": f"api: {{basic_auth: {{password: *{MISPLACED}, username: !{MISPLACED} x}}}}",
    "not YAML": f"api: {{basic_auth: {{password: %{MISPLACED}",
    "not UTF-8": f"api: {{basic_auth: {{password: {MISPLACED}\udce9",
    "folded": f"api:\n  timeout: 5\n   password: {MISPLACED}\n",
    "proxy without a scheme": f"api: {{proxy_url: 'user:{MISPLACED}@proxy.example:3128'}}",
    "proxy with a bad port": f"api: {{proxy_url: 'http://user:{MISPLACED}@proxy.example:{MISPLACED}'}}",
    "proxy twice": f"api: {{proxy_url: 'http://u:{MISPLACED}@proxy.example', proxy_from_environment: true}}",
    "token for its path": f"api: {{basic_auth: {{password_file: '{MISPLACED}\n\n{MISPLACED}'}}}}",
    "PEM for its path": f'api: {{tls_config: {{key_file: "-----BEGIN PRIVATE KEY-----\\n{MISPLACED}\\n"}}}}',
    "presigned URL as a ref": f"api: {{}}\nbatches: ['https://bucket.example/?X-Amz-Signature={MISPLACED}']",
    "presigned URL as a feed": f"feeds: ['https://bucket.example/?X-Amz-Signature={MISPLACED}']",
    "presigned URL as a duration": f"recheck_finished: 'https://bucket.example/?X-Amz-Signature={MISPLACED}'",
}
BAD_WEB_CONFIGS = {
    "plain password": f"basic_auth_users: {{{WEB_USER}: {MISPLACED}}}",
    "cost": f"basic_auth_users: {{{WEB_USER}: {HASH.replace('$04$', '$31$')}}}",
    "truncated hash": f"basic_auth_users: {{{WEB_USER}: {HASH[:-1]}}}",
    "hash for a mapping": f"basic_auth_users: {HASH}",
    "hash in a list": f"basic_auth_users: [{{{WEB_USER}: {HASH}}}]",
    "hash for a key": f"basic_auth_users: {{{HASH}: {WEB_USER}}}",
    "hash too deep": f"basic_auth_users: {{{WEB_USER}: {{password: {HASH}}}}}",
    "hash under a slip": f"basic_auth_user: {{{WEB_USER}: {HASH}}}",
    "hash elsewhere": f"http_server_config: {{headers: {{X-Frame-Options: {HASH}}}}}",
    "hash for a duration": f"rate_limit: {{interval: {HASH}}}",
    "hash for a version": f"tls_server_config: {{min_version: {HASH}, client_auth_type: {HASH}}}",
    "key that is none": f"tls_server_config: {{cert_file: server.crt, key: {MISPLACED}}}",
    "PEM for its path": f"tls_server_config:\n  cert_file: a\n  key_file: |\n    -----BEGIN\n    {MISPLACED}\n",
    "key for a mapping": f"tls_server_config: {MISPLACED}",
    "not YAML": f"basic_auth_users: {{{WEB_USER}: {HASH}",
}
BAD_BATCH_FILES = {
    "not-yaml.yaml": f"- password: %{MISPLACED}",
    "mapping.yaml": f"password: {MISPLACED}",
    "text.yaml": MISPLACED,
    "keys.yaml": f"- {{ref: {GOOD_REF}, password: {MISPLACED}, username: {MISPLACED}}}",
    "urls.yaml": f"- https://bucket.example/?X-Amz-Signature={MISPLACED}\n- ref: 'user:{MISPLACED}@x'\n",
    "answer.json": batch_answer(GOOD_REF, "https://bucket.example").decode(),
    "answers.json": f"[{batch_answer(GOOD_REF, 'https://bucket.example').decode()}]",
}
# What a key file should hold, but does not.
BAD_SECRET_FILES: Mapping[str, bytes] = {
    "not UTF-8": f"\udce9{MISPLACED}".encode(errors="surrogateescape"),
    "two lines": f"{MISPLACED}\n{MISPLACED}\n".encode(),
    "huge": MISPLACED.encode() * 10_000,
}


@dataclass
class Evidence:
    """What was output, each text with its place, and what was sent.

    Attributes:
        outputs: Pages and logs.
        metrics: The pages of the metrics alone.
        logs: The logs, by level and format.
        direct: What came to the API.
        tunnelled: What came to the API through the proxy.
        connects: The heads of the requests to the proxies.
        strays: What came to where redirects and presigned URLs lead.
        keys: The private keys that were in use, and the hash.

    """

    outputs: list[tuple[str, str]] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    logs: dict[tuple[str, str], str] = field(default_factory=dict)
    direct: Recorder = field(init=False)
    tunnelled: Recorder = field(init=False)
    connects: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)


class Exporter:
    """One running exporter, and everything that it has output."""

    def __init__(self, program: Program, folder: Folder) -> None:
        self.program = program
        self.outputs: list[tuple[str, str]] = []
        self.metrics: list[str] = []
        self._port = wait_for("the exporter to listen", lambda: listening_port(program), programs=[program])
        self._context = folder.client_context(with_certificate=False)
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = str(folder.path / "server_ca.crt")

    def ask(self, method: str, path: str, authorization: str | None, **headers: str) -> requests.Response:
        """Send a request, and keep the whole answer."""
        if authorization is not None:
            headers["Authorization"] = authorization
        response = self._session.request(
            method, f"https://127.0.0.1:{self._port}{path}", headers=headers, timeout=PATIENCE, allow_redirects=False
        )
        status = f"{response.status_code} {response.reason}"
        self.outputs.append((f"{method} {path}", f"{status}\n{response.headers}\n{response.text}"))
        return response

    def scrape(self, *, timeout: float = PATIENCE, accept: str = "*/*", encoding: str = "gzip") -> None:
        headers = {
            "X-Prometheus-Scrape-Timeout-Seconds": f"{timeout}",
            "Accept": accept,
            "Accept-Encoding": encoding,
        }
        self.metrics.append(self.ask("GET", "/metrics", RIGHT, **headers).text)

    def reload(self) -> requests.Response:
        return self.ask("POST", "/-/reload", RIGHT)

    def visit(self) -> None:
        """Go everywhere."""
        self.scrape()
        self.scrape(accept=OPEN_METRICS)
        self.scrape(encoding="identity")
        targets = (GOOD_REF, UNKNOWN_REF, FAULTY_REF, f"https://bucket.example{UPLOAD_PATH}", "")
        pages = ("/", *(f"/batches/{ref}" for ref in (GOOD_REF, UNKNOWN_REF, FAULTY_REF)))
        for path in (*pages, *(f"/probe?target={target}" for target in targets), "/probe", "/nothing"):
            self.ask("GET", path, RIGHT)
        for path in ("/-/healthy", "/-/ready"):
            self.ask("GET", path, None)
        self.ask("POST", "/metrics", RIGHT)

    def be_strange(self) -> None:
        """Send wrong credentials, and what is no request."""
        for authorization in WRONG:
            assert self.ask("GET", "/metrics", authorization).status_code == 401
        for sent in NO_REQUESTS:
            with socket.create_connection(("127.0.0.1", self._port), PATIENCE) as connection:
                # In plain text it is no TLS handshake either.
                self.outputs.append(("no handshake", exchange(connection, sent)))
            with (
                socket.create_connection(("127.0.0.1", self._port), PATIENCE) as connection,
                self._context.wrap_socket(connection, server_hostname="localhost") as encrypted,
            ):
                answer = exchange(encrypted, sent)
                assert answer.startswith("HTTP/1.0 400 Bad Request"), answer
                self.outputs.append(("no request", answer))

    def hang_up(self) -> None:
        self._session.close()


def basic(user: str, password: str) -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def exchange(connection: socket.socket, sent: bytes) -> str:
    """Send bytes, and return all that comes until the other side has had enough."""
    connection.settimeout(PATIENCE)
    received = bytearray()
    with suppress(OSError):
        connection.sendall(sent)
        while data := connection.recv(65536):
            received += data
    return received.decode(errors="replace")


RIGHT = basic(WEB_USER, planted.WEB_PASSWORD)
WRONG = (
    None,
    basic(WEB_USER, planted.WRONG_PASSWORD),
    basic(planted.WRONG_PASSWORD, planted.WEB_PASSWORD),
    basic(WEB_USER, f"{planted.WRONG_PASSWORD}\0"),
    f"Basic {core('wrong web password')}",
    f"Basic {b64encode(planted.WRONG_PASSWORD.encode()).decode()}",
    f"Basic {WEB_USER}:{core('web password')}",
    f"Bearer {core('web password')}",
    f"Digest username={core('web password')}",
    core("web password"),
)
_RIGHT, _PASSWORD = RIGHT.encode(), core("web password").encode()
NO_REQUESTS = (
    b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: " + _RIGHT + b"\0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization : " + _RIGHT + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + _RIGHT + b"\r\n\r\n",
    b"GET /" + _PASSWORD + b" " + _PASSWORD + b"\r\n\r\n",
    _PASSWORD + b" / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    _PASSWORD + b"\r\n\r\n",
    b"GET http://" + _PASSWORD + b":x/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: " + _PASSWORD + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic " + _PASSWORD * 1000 + b"\r\n\r\n",
)


def listening_port(program: Program) -> int | None:
    """Find out where a program listens, which it does not log at every level."""
    process = Path(f"/proc/{program.process.pid}")
    sockets = set()
    for descriptor in (process / "fd").iterdir():
        with suppress(OSError):
            sockets.add(descriptor.readlink().name)
    for line in (process / "net" / "tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, local, _, state, *_, inode = line.split()[:10]
        if state == "0A" and f"socket:[{inode}]" in sockets:
            return int(local.partition(":")[2], 16)
    return None


class Walk:
    """Leads exporters, one for each level, through one scene after the other. They share their files."""

    def __init__(self, directory: Path) -> None:
        self.evidence = Evidence()
        self._directory = directory
        self._folder = Folder(directory)
        self._stack = ExitStack()
        self._config = directory / "config.yaml"
        self._token = directory / "token"
        self._batch_files = directory / "batches.d"

    def run(self) -> Evidence:
        with self._stack:
            self._start_servers()
            self._write_files()
            self._start_exporters()
            for scene in (
                self._every_answer,
                self._error_logs,
                self._lists,
                self._no_http,
                self._deadline,
                self._secret_files,
                self._proxies,
                self._tls,
                self._environment,
                self._bad_configs,
                self._bad_web_configs,
                self._unauthorized,
            ):
                scene()
                self._everywhere(lambda exporter: exporter.ask("GET", "/", RIGHT))
        self._collect()
        return self.evidence

    # What is there.

    def _start_servers(self) -> None:
        enter = self._stack.enter_context
        self._sandbox = enter(Sandbox(client_key=planted.CLIENT_KEY, api_token=planted.API_TOKEN))
        port = int(self._sandbox.base_url.rpartition(":")[2])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._folder.server_authority.issue_cert("localhost", "127.0.0.1", "api.example").configure_cert(context)
        self.evidence.direct = self._direct = enter(Recorder(port))
        self.evidence.tunnelled = self._tunnelled = enter(Recorder(port, context))
        self._proxy = enter(Proxy())
        said = f"{FOREIGN} {planted.PROXY_CREDENTIALS}"
        refusal = f"HTTP/1.1 407 {said}\r\nProxy-Authenticate: Basic realm={said}\r\nContent-Length: 0\r\n\r\n"
        self._refusing = enter(Proxy(refusal=refusal.encode()))
        self._stray = enter(Stray())

    def _write_files(self) -> None:
        self._folder.write(f"{TLS}basic_auth_users: {{{WEB_USER}: {HASH}}}\n")
        self._batch_files.mkdir()
        for name, text in BAD_BATCH_FILES.items():
            (self._batch_files / name).write_text(text, encoding="utf-8")
        self._token.write_text(planted.API_TOKEN, encoding="utf-8")
        self._broken = answers(self._stray.url)
        self._refs = [f"00000000-0000-4000-8000-{number:012x}" for number in range(len(self._broken))]
        self._configure()

    def _start_exporters(self) -> None:
        proxy = f"http://{planted.ENVIRONMENT_PROXY_CREDENTIALS}@127.0.0.1:{self._proxy.port}"
        environment = {
            "SITECORE_CDP_CLIENT_KEY": planted.ENVIRONMENT_KEY,
            "SITECORE_CDP_API_TOKEN": planted.ENVIRONMENT_TOKEN,
            "HTTP_PROXY": proxy,
            "HTTPS_PROXY": proxy,
        }
        programs = [
            self._stack.enter_context(
                running(
                    [
                        "env",
                        *(f"{name}={value}" for name, value in environment.items()),
                        *(sys.executable, str(ROOT / "tests" / "system" / "secrets_program.py")),
                        *(f"--config.file={self._config}", f"--web.config.file={self._folder.web_config}"),
                        *("--web.listen-address=127.0.0.1:0", "--web.enable-lifecycle"),
                        *(f"--log.level={level}", f"--log.format={form}"),
                    ],
                    log=self._directory / f"{level}-{form}.log",
                )
            )
            for level, form in LEVELS
        ]
        self._exporters = [Exporter(program, self._folder) for program in programs]
        for exporter in self._exporters:
            self._stack.callback(exporter.hang_up)

    def _configure(self, *, batches: Sequence[str] = (GOOD_REF,), discovery: bool = False, **api: object) -> None:
        settings = {
            "base_url": self._direct.url,
            "basic_auth": {"username": planted.CLIENT_KEY, "password_file": str(self._token)},
            "endpoint": "inspect",
            "timeout": "1s",
            # The usual authorities take long to read.
            "tls_config": {"ca_file": str(self._directory / "server_ca.crt")},
            **api,
        }
        document = {
            "api": settings,
            "batches": list(batches),
            "batch_files": ["batches.d/*"],
            "recheck_finished": "0s",
            "discovery": {"enabled": discovery},
        }
        self._config.write_text(yaml.safe_dump(document), encoding="utf-8")

    # What is done.

    def _everywhere(self, action: Callable[[Exporter], object]) -> None:
        with ThreadPoolExecutor(len(self._exporters)) as threads:
            list(threads.map(action, self._exporters))

    def _use(self, *, batches: Sequence[str] = (GOOD_REF,), discovery: bool = False, **api: object) -> None:
        """Put other settings to use, and scrape and probe with them."""
        self._configure(batches=batches, discovery=discovery, **api)

        def use(exporter: Exporter) -> None:
            assert exporter.reload().status_code == 200
            exporter.scrape()
            exporter.ask("GET", f"/probe?target={UNKNOWN_REF}", RIGHT)

        self._everywhere(use)

    def _every_answer(self) -> None:
        """Every answer that the API can give, one for each ref, and every path of the exporter."""
        for ref, fault in zip(self._refs, self._broken, strict=True):
            self._sandbox.set_fault(fault, ref=ref)
        for ref in (*self._refs, GOOD_REF, FAULTY_REF):
            # A batch that is not finished shows each failure to ask for it.
            self._sandbox.put_batch(ref, status="processing", total=2, failed=1, log=True)
        self._use(batches=[GOOD_REF, FAULTY_REF])
        self._everywhere(Exporter.visit)
        # A poll logs ten batches at most.
        for start in range(0, len(self._refs), MAX_LOGGED):
            self._use(batches=self._refs[start : start + MAX_LOGGED])
        self._everywhere(Exporter.be_strange)
        # Kept-alive connections that the API has closed are tried again on fresh ones.
        self._sandbox.close_idle_connections()
        self._sandbox.clear_faults()
        self._everywhere(Exporter.scrape)
        # Discovery would find them.
        for ref in self._refs:
            self._sandbox.remove_batch(ref)

    def _error_logs(self) -> None:
        """A log of secrets, one that cannot be read, and one that its storage refuses."""
        logs = {
            ref: f"{self._stray.url}{path}" for ref, path in zip(self._refs, (LOG_PATH, UPLOAD_PATH, "/"), strict=False)
        }
        logs[UNKNOWN_REF] = f"https://{core('name in an error log')}.example{LOG_PATH}"
        for ref, url in logs.items():
            answer = batch_answer(ref, self._stray.url, status={"code": "error", "log": url})
            self._sandbox.set_fault(faults.Body(answer), ref=ref)
        self._use(batches=[*logs])

        def read(exporter: Exporter) -> None:
            def are_read() -> bool:
                exporter.visit()
                return exporter.metrics[-1].count("sitecore_cdp_batch_error_log_read{") == len(logs)

            wait_for("the error logs to be read", are_read, programs=[exporter.program])

        self._everywhere(read)
        self._sandbox.clear_faults()

    def _lists(self) -> None:
        item = json.loads(batch_answer(GOOD_REF, self._stray.url)) | {"status": "error"}
        url = f"{self._stray.url}{UPLOAD_PATH}"
        self._use(discovery=True)
        for body in (
            {"totalCount": 1, "items": [item]},
            {"totalCount": 2, "items": [{**item, "ref": url}, {**item, "createdAt": url}]},
            {"totalCount": url, "items": [item]},
            {"totalCount": 1, "items": url},
            {"totalCount": 1, "items": [url]},
            url,
        ):
            self._sandbox.set_fault(faults.Body(json.dumps(body).encode()))
            self._everywhere(Exporter.scrape)
        self._sandbox.set_fault(faults.Redirect(url))
        self._everywhere(Exporter.scrape)
        self._sandbox.clear_faults()
        self._everywhere(Exporter.scrape)

    def _no_http(self) -> None:
        """Answers that the sandbox cannot give: secrets in status lines, headers, chunks and garbage."""
        said = f"{FOREIGN} {UPLOAD_PATH}"
        replies = (
            f"HTTP/1.1 503 {said}\r\nContent-Length: 0\r\n\r\n",
            f"HTTP/1.1 {said}\r\n\r\n",
            f"{said}\r\n\r\n",
            f"HTTP/1.1 200 OK\r\n{said}\r\nContent-Length: 0\r\n\r\n",
            f"HTTP/1.1 200 OK\r\nContent-Length: {said}\r\n\r\n",
            f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{said}\r\n",
            f"HTTP/1.1 301 {said}\r\nLocation: {said}\r\nContent-Length: {len(said)}\r\n\r\n{said}",
        )

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            number = int(head.split(b" ", 2)[1][-12:], 16)
            writer.write(replies[number % len(replies)].encode())

        with RawServer(script) as server:
            self._use(base_url=server.url, batches=self._refs[: len(replies)])
        self._use()

    def _deadline(self) -> None:
        self._sandbox.set_fault(faults.Hang(), ref=GOOD_REF)
        self._everywhere(lambda exporter: exporter.scrape(timeout=0.6))
        self._everywhere(Exporter.scrape)
        self._sandbox.clear_faults()

    def _secret_files(self) -> None:
        for content in BAD_SECRET_FILES.values():
            self._token.write_bytes(content)
            self._everywhere(Exporter.scrape)
        self._token.unlink()
        self._everywhere(Exporter.scrape)
        self._token.mkdir()
        self._everywhere(Exporter.scrape)
        self._token.rmdir()
        self._token.write_text(planted.API_TOKEN, encoding="utf-8")
        self._everywhere(Exporter.scrape)

    def _proxies(self) -> None:
        https: dict[str, Any] = {"base_url": self._tunnelled.url}
        for port in (self._proxy.port, self._refusing.port, closed_port()):
            self._use(proxy_url=f"http://{planted.PROXY_CREDENTIALS}@127.0.0.1:{port}", **https)
        # A proxy that should speak TLS and does not.
        self._use(proxy_url=f"https://{planted.PROXY_CREDENTIALS}@127.0.0.1:{self._proxy.port}", **https)
        self._use(proxy_url=f"http://{planted.PROXY_CREDENTIALS}@proxy.invalid:1", **https)
        # Loopback takes no proxy of the environment.
        self._use(proxy_from_environment=True, base_url=self._tunnelled.url.replace("127.0.0.1", "api.example"))

    def _tls(self) -> None:
        self._use(base_url=self._tunnelled.url, tls_config={"ca_file": str(self._directory / "client_ca.crt")})
        self._use(base_url=self._sandbox.base_url.replace("http:", "https:"))
        certificate, key = self._folder.client_certificate()
        no_key = self._directory / "no.key"
        no_key.write_text(f"-----BEGIN PRIVATE KEY-----\n{MISPLACED}\n-----END PRIVATE KEY-----\n", encoding="ascii")
        for files in (
            {"cert_file": key, "key_file": key},
            {"cert_file": certificate, "key_file": str(no_key)},
            {"cert_file": certificate, "key_file": str(self._directory / "server.key")},
            {"cert_file": certificate, "key_file": "missing"},
            {"ca_file": key},
            {"ca_file": certificate, "insecure_skip_verify": True, "cert_file": certificate, "key_file": key},
        ):
            self._use(base_url=self._tunnelled.url, tls_config={"ca_file": certificate, **files})

    def _environment(self) -> None:
        """Credentials of the environment, which the API does not know."""
        self._use(basic_auth={}, endpoint="batches")
        self._use(basic_auth={"username": planted.CLIENT_KEY, "password": planted.OTHER_TOKEN})

    def _bad_configs(self) -> None:
        for text in BAD_CONFIGS.values():
            self._config.write_bytes(text.encode(errors="surrogateescape"))
            self._everywhere(lambda exporter: self._is_refused(exporter.reload()))
        before = [exporter.program.output().count("cannot reload") for exporter in self._exporters]
        for exporter, count in zip(self._exporters, before, strict=True):
            exporter.program.process.send_signal(signal.SIGHUP)
            wait_for(
                "the reload to fail",
                lambda exporter=exporter, count=count: exporter.program.output().count("cannot reload") > count,  # type: ignore[misc]
                programs=[exporter.program],
            )
        self._use()

    def _is_refused(self, response: requests.Response) -> None:
        assert response.status_code == 500
        assert "Cannot reload the config" in response.text

    def _bad_web_configs(self) -> None:
        web_config, key = self._folder.web_config, self._directory / "server.key"
        good, right = web_config.read_text(encoding="utf-8"), key.read_text(encoding="ascii")
        for text in BAD_WEB_CONFIGS.values():
            self._web_config_is_refused(lambda text=text: self._folder.write(text))  # type: ignore[misc]
        self._web_config_is_refused(web_config.unlink)
        self._folder.write(good)
        for wrong in (f"{right[:60]}{MISPLACED}{right[60:]}", (self._directory / "client.key").read_text("ascii"), ""):
            self._web_config_is_refused(lambda wrong=wrong: key.write_text(wrong, encoding="ascii"))  # type: ignore[misc]
        key.write_text(right, encoding="ascii")
        self._everywhere(Exporter.scrape)

    def _web_config_is_refused(self, change: Callable[[], object]) -> None:
        """Change a file, and wait until each exporter has seen that. It looks at its files by itself."""
        counts = [exporter.program.output().count(NOT_RELOADED) for exporter in self._exporters]
        change()
        for exporter, count in zip(self._exporters, counts, strict=True):
            wait_for(
                "the web config to be refused",
                lambda exporter=exporter, count=count: exporter.program.output().count(NOT_RELOADED) > count,  # type: ignore[misc]
                programs=[exporter.program],
            )
        self._everywhere(Exporter.scrape)

    def _unauthorized(self) -> None:
        self._sandbox.set_api_token("another")
        self._use(batches=[GOOD_REF, UNKNOWN_REF], concurrency=1)
        self._everywhere(Exporter.scrape)

    # What is kept.

    def _collect(self) -> None:
        evidence = self.evidence
        for (level, form), exporter in zip(LEVELS, self._exporters, strict=True):
            evidence.outputs += exporter.outputs
            evidence.metrics += exporter.metrics
            evidence.logs[level, form] = log = exporter.program.output()
            evidence.outputs += [(f"log {level} {form}: {line}", line) for line in log.splitlines()]
        evidence.connects = [*self._proxy.heads, *self._refusing.heads]
        evidence.strays = self._stray.heads
        evidence.keys = {HASH[7:]: "hash of the web config"} | {
            planted.pem_lines((self._directory / f"{side}.key").read_text(encoding="ascii")): f"key of the {side}"
            for side in ("server", "client")
        }


def answers(origin: str) -> list[faults.Fault]:
    """Return every kind of answer, with secrets wherever the other side could put them.

    Args:
        origin: Where presigned URLs and redirects lead.

    """
    url = f"{origin}{UPLOAD_PATH}"
    fields = ("ref", "size", "location", "status", "summaryStats", "createdAt", "modifiedAt")
    whole = batch_answer(None, origin)
    return [
        *(faults.Status(status, body=f"{FOREIGN} {url}") for status in (400, 403, 404, 500, 503)),
        faults.Status(429, retry_after=f"{FOREIGN} {url}", body=f"{FOREIGN} {url}"),
        *(faults.Redirect(url, status=status) for status in (301, 302, 303, 307, 308)),
        faults.SetCookie(FOREIGN, FOREIGN),
        faults.CutBody(),
        faults.CutConnection(),
        faults.CutConnection(reset=True),
        faults.CloseReusedConnection(),
        faults.MalformedJson(),
        faults.Html(),
        faults.LargeBody(2),
        *(faults.Body(batch_answer(None, origin, **{name: url})) for name in fields),
        *(faults.Body(batch_answer(None, origin, status={"code": code})) for code in (url, [url], None)),
        faults.Body(batch_answer(None, origin)),
        faults.Body(batch_answer(None, origin, location={"href": [url], "expiry": url})),
        faults.Body(whole[:-20]),
        faults.Body(f'"{url}"'.encode()),
        faults.Body(f"[{url}]".encode()),
        faults.Body(f"\udcff{url}".encode(errors="surrogateescape")),
        faults.Body(whole, content_encoding="gzip"),
        faults.Body(whole, content_encoding=FOREIGN),
    ]


class Stray(RawServer):
    """Where redirects and presigned URLs lead. Nothing should come but requests for error logs."""

    def __init__(self) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await self.read_head(reader)
            log = planted.error_log() if f" {LOG_PATH} " in head else f"<html>{FOREIGN}</html>".encode()
            status = "403 Forbidden" if " / " in head else "200 OK"
            writer.write(f"HTTP/1.1 {status}\r\nX-Said: {FOREIGN}\r\nContent-Length: {len(log)}\r\n\r\n".encode() + log)

        super().__init__(script)


def closed_port() -> int:
    """Return a port of loopback where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
