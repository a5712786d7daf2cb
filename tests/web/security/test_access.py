"""Passwords, the rate limit and the headers of the web config."""

import base64
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import bcrypt
import pytest
import requests
from prometheus_client import generate_latest

from sitecore_cdp_exporter.poll.snapshot import Snapshot
from sitecore_cdp_exporter.web.security.passwords import Passwords
from sitecore_cdp_exporter.web.security.rate_limit import TokenBucket
from tests.conditions import wait_until
from tests.web.security.web_config_server import HASH, PASSWORD, USER, USERS, Folder, SecureServerThread, secure_server
from tests.web.web_server_thread import PATIENCE, ScriptedPoller

REF = "12af3453-62da-4b31-b646-631b7b5f3009"
RIGHT = (USER, PASSWORD)
EVERYTHING_ELSE = [
    *[
        ("GET", path)
        for path in ("/", "/metrics", f"/batches/{REF}", f"/probe?target={REF}", "/probe", "/nothing", "/-/reload")
    ],
    *[("POST", path) for path in ("/-/reload", "/-/healthy", "/-/ready", "/metrics")],
    *[("HEAD", "/"), ("OPTIONS", "/metrics"), ("GET", "/-/healthy/"), ("GET", "//-/healthy"), ("GET", "/-/Healthy")],
]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.write(USERS)
    return folder


@pytest.fixture
def server(folder: Folder, nothing_is_left: None) -> Iterator[SecureServerThread]:  # noqa: ARG001  It comes first, and so it ends last.
    """A server that asks for a password, in plain HTTP."""
    with secure_server(folder) as server:
        yield server


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureServerThread]:
    """One such server for all rows of a table, whose web config nobody changes."""
    folder = Folder(tmp_path_factory.mktemp("server"))
    folder.write(USERS)
    with secure_server(folder) as server:
        yield server


class Comparisons:
    """Counts what bcrypt is asked, and holds it up on request."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bytes]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self._compare = bcrypt.checkpw

    def __call__(self, password: bytes, hashed: bytes) -> bool:
        self.asked.append((password, hashed))
        self.go_on.wait(PATIENCE)
        return self._compare(password, hashed)


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> Iterator[Comparisons]:
    comparisons = Comparisons()
    monkeypatch.setattr(bcrypt, "checkpw", comparisons)
    yield comparisons
    comparisons.go_on.set()


def status(server: SecureServerThread, auth: tuple[str, str] | None = RIGHT, path: str = "/metrics") -> int:
    return server.get(path, auth=auth).status_code


def hash_of(password: bytes, cost: int = 4) -> str:
    return bcrypt.hashpw(password, bcrypt.gensalt(cost)).decode()


# Who is let in


@pytest.mark.parametrize(("method", "path"), EVERYTHING_ELSE)
def test_everything_asks_for_a_password(one_server: SecureServerThread, method: str, path: str) -> None:
    response = one_server.request(method, path)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Basic"
    assert "sitecore_cdp" not in response.text
    assert one_server.request(method, path, auth=RIGHT).status_code != 401


@pytest.mark.parametrize("path", ["/-/healthy", "/-/ready"])
def test_the_health_paths_need_no_password(server: SecureServerThread, comparisons: Comparisons, path: str) -> None:
    assert status(server, None, path) == 200
    assert status(server, (USER, "wrong"), path) == 200
    assert server.request("HEAD", path).status_code == 200
    assert requests.get(f"http://127.0.0.1:{server.health_port}{path}", timeout=PATIENCE).status_code == 200
    assert comparisons.asked == []


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        (RIGHT, 200),
        ((USER, "wrong"), 401),
        ((USER, ""), 401),
        ((USER, PASSWORD + "\0"), 401),
        ((USER, PASSWORD[:-1]), 401),
        ((USER, PASSWORD.upper()), 401),
        ((USER.upper(), PASSWORD), 401),
        (("nobody", PASSWORD), 401),
        (("", PASSWORD), 401),
        (("nobody", "x" * 73), 401),
        ((USER, "x" * 4000), 401),
        ((USER, HASH), 401),
    ],
)
def test_user_and_password_must_match(one_server: SecureServerThread, auth: tuple[str, str], expected: int) -> None:
    assert status(one_server, auth) == expected


@pytest.mark.parametrize(
    "header",
    [
        *(b"", b"Basic", b"Basic ", b"Basic !!!", b"Bearer x", b"Digest username=prometheus", b"Basic \xff\xfe"),
        b"Basic " + base64.b64encode(b"\xff:\xff"),
        b"Basic " + base64.b64encode(b"prometheus"),
        b"Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).rstrip(b"=") + b"*",
        base64.b64encode(f"{USER}:{PASSWORD}".encode()),
    ],
)
def test_a_malformed_header_is_refused(one_server: SecureServerThread, header: bytes) -> None:
    assert one_server.get("/metrics", headers={"Authorization": header}).status_code == 401


def test_the_scheme_may_be_of_any_case(server: SecureServerThread) -> None:
    header = "bAsIc " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert server.get("/metrics", headers={"Authorization": header}).status_code == 200


@pytest.mark.parametrize(
    "password",
    ["", "pass:word", "x" * 71, "żółw 🐢", "a\0b", " space "],
    ids=["empty", "colon", "71 bytes", "other letters", "zero byte", "spaces"],
)
def test_any_password_that_bcrypt_accepts_works(folder: Folder, password: str) -> None:
    folder.write(f"basic_auth_users: {{'': {hash_of(password.encode())}, 'wł': {hash_of(password.encode())}}}")
    with secure_server(folder) as server:
        for user in ("", "wł"):
            header = b"Basic " + base64.b64encode(f"{user}:{password}".encode())
            assert server.get("/metrics", headers={"Authorization": header}).status_code == 200
        # Nothing but all of it is the password.
        for other in (f"{password}x", f"x{password}", password.replace("b", "c") + "y\0"):
            header = b"Basic " + base64.b64encode(f":{other}".encode())
            assert server.get("/metrics", headers={"Authorization": header}).status_code == 401


def test_the_health_listener_serves_nothing_else_and_hears_no_password(
    server: SecureServerThread, comparisons: Comparisons
) -> None:
    for path in ("/", "/metrics", "/-/reload"):
        url = f"http://127.0.0.1:{server.health_port}{path}"
        assert requests.get(url, auth=RIGHT, timeout=PATIENCE).status_code == 404
    assert comparisons.asked == []


def test_without_users_no_password_is_needed(folder: Folder) -> None:
    folder.write("basic_auth_users: {}\n")
    with secure_server(folder) as server:
        assert status(server, None) == 200


@pytest.mark.parametrize(
    "first", ["x" * 72, f"x{'ż' * 36}", f"{'x' * 71}\0"], ids=["72 bytes", "73 bytes, cut in a letter", "zero byte"]
)
def test_of_a_long_password_the_first_72_bytes_count_as_in_go(folder: Folder, first: str) -> None:
    """bcrypt knows no more of it, and Go's CompareHashAndPassword, which all official exporters ask, takes it so."""
    folder.write(f"basic_auth_users: {{{USER}: {hash_of(first.encode()[:72])}}}")
    with secure_server(folder) as server:
        for given, expected in ((first, 200), (f"{first}x", 200), (f"{first}ż" * 50, 200), (f"y{first}", 401)):
            header = b"Basic " + base64.b64encode(f"{USER}:{given}".encode())
            assert server.get("/metrics", headers={"Authorization": header}).status_code == expected


# What it costs


def test_a_wrong_password_takes_as_long_as_an_unknown_user(folder: Folder, comparisons: Comparisons) -> None:
    folder.write(f"{USERS}  other: {hash_of(b'x', 5)}\n")
    with secure_server(folder) as server:
        for auth in (("other", "wrong"), ("nobody", "wrong"), ("", "wrong")):
            assert status(server, auth) == 401
    assert [hashed[:7] for _, hashed in comparisons.asked] == [b"$2b$05$"] * 3


def test_no_password_lets_an_unknown_user_in(folder: Folder) -> None:
    """An unknown user is compared with the hash of a known one, whose password must be of no use."""
    with secure_server(folder) as server:
        assert status(server, ("nobody", PASSWORD)) == 401
        assert status(server, RIGHT) == 200
        assert status(server, ("nobody", PASSWORD)) == 401


def test_only_the_first_scrape_compares_a_password(server: SecureServerThread, comparisons: Comparisons) -> None:
    for path in ("/metrics", "/", f"/probe?target={REF}", "/metrics"):
        assert status(server, RIGHT, path) == 200
    assert len(comparisons.asked) == 1


def test_wrong_passwords_do_not_displace_the_right_one(server: SecureServerThread, comparisons: Comparisons) -> None:
    # More than functools.lru_cache would remember.
    wrong = [f"wrong {number}" for number in range(130)]
    with requests.Session() as kept:
        kept.trust_env = False
        for password in (PASSWORD, *wrong, PASSWORD):
            response = kept.get(f"{server.url}/metrics", auth=(USER, password), timeout=PATIENCE)
            assert response.status_code == (200 if password == PASSWORD else 401)
    assert len(comparisons.asked) == 131


def test_the_same_password_at_once_is_compared_once(server: SecureServerThread, comparisons: Comparisons) -> None:
    comparisons.go_on.clear()
    with ThreadPoolExecutor(10) as threads:
        scrapes = [threads.submit(status, server) for _ in range(10)]
        wait_until(lambda: server.connections() == 10)
        comparisons.go_on.set()
        assert [scrape.result() for scrape in scrapes] == [200] * 10
    assert len(comparisons.asked) == 1


def test_passwords_are_compared_one_at_a_time_and_everybody_has_a_turn(
    server: SecureServerThread, comparisons: Comparisons
) -> None:
    comparisons.go_on.clear()
    with ThreadPoolExecutor(21) as threads:
        wrong = [threads.submit(status, server, (USER, f"wrong {number}")) for number in range(20)]
        wait_until(lambda: server.connections() == 20)
        right = threads.submit(status, server)
        wait_until(lambda: server.connections() == 21)
        assert len(comparisons.asked) == 1
        comparisons.go_on.set()
        assert right.result() == 200
        assert [each.result() for each in wrong] == [401] * 20


def test_a_flood_of_wrong_passwords_does_not_delay_scrapes(
    server: SecureServerThread, comparisons: Comparisons
) -> None:
    assert status(server) == 200
    comparisons.go_on.clear()
    with ThreadPoolExecutor(20) as threads:
        flood = [threads.submit(status, server, (USER, f"wrong {number}")) for number in range(20)]
        wait_until(lambda: server.connections() == 20)
        # Its password was right before.
        assert status(server) == 200
        assert status(server, None, "/-/healthy") == 200
        assert status(server, None) == 401
        comparisons.go_on.set()
        assert [each.result() for each in flood] == [401] * 20
    assert len(comparisons.asked) == 21


def test_requests_waiting_for_a_comparison_do_not_exhaust_the_connections(
    folder: Folder, comparisons: Comparisons
) -> None:
    with secure_server(folder, max_connections=3) as server, ThreadPoolExecutor(3) as threads, ExitStack() as stack:
        assert status(server) == 200
        comparisons.go_on.clear()

        def wrong(number: int) -> int:
            return server.get("/metrics", auth=(USER, "wrong"), source=f"127.0.0.{number}").status_code

        flood: list[Future[int]] = [threads.submit(wrong, number) for number in (2, 3, 4)]
        wait_until(lambda: server.connections() == 3)
        for _ in range(3):
            connection = stack.enter_context(server.connect(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n"))
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        comparisons.go_on.set()
        assert all(isinstance(waiting.exception(), requests.ConnectionError) for waiting in flood)


def test_no_password_lies_in_memory(folder: Folder) -> None:
    with secure_server(folder) as server:
        assert status(server) == 200
        passwords = server.web_config.last.passwords
        assert passwords is not None
        comparisons = passwords._comparisons
        kept = repr(vars(comparisons))
        assert HASH in kept
        assert PASSWORD not in kept


# Rotation


def test_another_password_counts_without_a_restart(server: SecureServerThread, folder: Folder) -> None:
    with requests.Session() as kept:
        kept.auth = RIGHT
        assert kept.get(f"{server.url}/metrics", timeout=PATIENCE).status_code == 200
        folder.write(f"basic_auth_users: {{{USER}: {hash_of(b'new')}}}")
        # The connection is the same, and so was the password.
        assert kept.get(f"{server.url}/metrics", timeout=PATIENCE).status_code == 401
    assert status(server, (USER, "new")) == 200
    folder.write(f"basic_auth_users: {{another: {hash_of(b'new')}}}")
    assert status(server, (USER, "new")) == 401
    assert status(server, ("another", "new")) == 200


def test_a_comparison_under_way_does_not_count_for_another_hash(
    server: SecureServerThread, folder: Folder, comparisons: Comparisons
) -> None:
    comparisons.go_on.clear()
    with ThreadPoolExecutor(2) as threads:
        before = threads.submit(status, server)
        wait_until(lambda: len(comparisons.asked) == 1)
        folder.write(f"basic_auth_users: {{{USER}: {hash_of(b'new')}}}")
        after = threads.submit(status, server)
        wait_until(lambda: server.connections() == 2)
        comparisons.go_on.set()
        assert [before.result(), after.result()] == [200, 401]
    assert len(comparisons.asked) == 2
    assert status(server) == 401


def test_a_broken_file_keeps_the_passwords_and_shows(
    server: SecureServerThread, folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    for content in ("basic_auth_users: {", "basic_auth_users: {prometheus: x5ecretx}", ""):
        caplog.clear()
        if content:
            folder.write(content)
        else:
            folder.web_config.unlink()
        for _ in range(3):
            folder.changed()
            assert status(server, None) == 401
            assert status(server) == 200
        [message] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert message.startswith(f"cannot reload the web config: {folder.web_config}:")
        assert "x5ecretx" not in message
        metrics = generate_latest(server.registry).decode()
        assert "sitecore_cdp_exporter_web_config_last_reload_successful 0.0" in metrics
    folder.write(f"basic_auth_users: {{{USER}: {hash_of(b'new')}}}")
    assert status(server) == 401
    assert "sitecore_cdp_exporter_web_config_last_reload_successful 1.0" in generate_latest(server.registry).decode()


# The rate limit


def test_requests_over_the_rate_limit_are_refused(folder: Folder) -> None:
    folder.write("rate_limit: {interval: 1h, burst: 3}")
    with secure_server(folder) as server:
        assert [server.get(path).status_code for path in ("/metrics", "/nothing", "/", "/metrics", "/")] == [
            *(200, 404, 200),
            *(429, 429),
        ]
        assert server.get("/-/healthy").status_code == 200
        folder.write("rate_limit: {interval: 0, burst: 0}")
        assert server.get("/metrics").status_code == 200


def test_the_rate_limit_comes_before_the_password(folder: Folder, comparisons: Comparisons) -> None:
    folder.write(f"{USERS}rate_limit: {{interval: 1h, burst: 2}}")
    with secure_server(folder) as server:
        assert [status(server, (USER, f"wrong {number}")) for number in range(4)] == [401, 401, 429, 429]
    assert len(comparisons.asked) == 2


def test_a_bucket_is_filled_one_by_one_up_to_its_burst() -> None:
    now = 0.0
    bucket = TokenBucket(2.0, 3, clock=lambda: now)

    def taken() -> int:
        number = 0
        while bucket.take():
            number += 1
        return number

    assert taken() == 3
    counts = []
    for seconds in (1.9, 0.2, 3.8, 0.1, 1000.0):
        now += seconds
        counts.append(taken())
    assert counts == [0, 1, 1, 1, 3]


# Headers


def test_the_headers_are_on_every_answer(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write(
        f"{USERS}http_server_config:\n  headers:\n    Strict-Transport-Security: max-age=7\n"
        "    X-Frame-Options: sameorigin\n    Content-Security-Policy: default-src 'self'\n"
    )
    poller = ScriptedPoller()

    def fail(_: float) -> Snapshot:
        raise RuntimeError("a bug")

    with secure_server(folder, poller) as server:

        def answers() -> Iterator[requests.Response]:
            for path in ("/", "/metrics", "/nothing", "/-/healthy"):
                yield server.get(path, auth=RIGHT)
            yield server.request("POST", "/", auth=RIGHT)
            yield server.get("/metrics")
            yield server.get("/metrics", auth=(USER, "wrong"))
            monkeypatch.setattr(poller, "poll", fail)
            yield server.get("/metrics", auth=RIGHT)

        found = list(answers())
        assert [response.status_code for response in found] == [200, 200, 404, 200, 405, 401, 401, 500]
        for response in found:
            assert response.headers["Strict-Transport-Security"] == "max-age=7"
            assert response.headers["X-Frame-Options"] == "sameorigin"
            assert response.headers["Content-Security-Policy"] == "default-src 'self'"
        with server.connect(b"no request\r\n\r\n") as connection:
            refused = connection.recv(10_000)
        assert b" 400 Bad Request\r\n" in refused
        assert b"Strict-Transport-Security: max-age=7\r\n" in refused
        folder.write(USERS)
        assert "Strict-Transport-Security" not in server.get("/", auth=RIGHT).headers


# The rest


def test_a_comparison_that_fails_is_a_fault_and_the_next_one_works(
    server: SecureServerThread, monkeypatch: pytest.MonkeyPatch, comparisons: Comparisons
) -> None:
    def fail(*_: bytes) -> bool:
        raise MemoryError

    works: Callable[..., bool] = comparisons
    monkeypatch.setattr(bcrypt, "checkpw", fail)
    response = server.get("/metrics", auth=RIGHT)
    assert response.status_code == 500
    assert PASSWORD not in response.text
    monkeypatch.setattr(bcrypt, "checkpw", works)
    assert status(server) == 200


def test_repr_of_passwords_shows_nothing(folder: Folder) -> None:
    with secure_server(folder) as server:
        assert status(server) == 200
        security = server.web_config.last
        assert isinstance(security.passwords, Passwords)
        assert HASH not in repr(security) + repr(security.passwords) + repr(server.web_config)
