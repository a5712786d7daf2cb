"""Fixtures of the sandbox's tests."""

from collections.abc import Iterator

import pytest
import requests

from tests.sandbox.client import API_TOKEN, CLIENT_KEY, Client
from tools.sandbox import Sandbox


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, speed=1000) as sandbox:
        yield sandbox


@pytest.fixture
def client(sandbox: Sandbox, session: requests.Session) -> Client:
    return Client(sandbox, session)
