"""Passwords against bcrypt hashes, such that neither time nor load tells or costs more than it must."""

import asyncio
import hmac
import secrets
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import NamedTuple

import bcrypt
from pydantic import SecretStr

# bcrypt knows no more of a password.
LONGEST_PASSWORD = 72


class BusyError(Exception):
    """Another password of the same client is compared right now. Catch it to tell the client to come again."""


class _Comparison(NamedTuple):
    fingerprint: bytes
    result: asyncio.Future[bool]


class Passwords:
    """The users and their passwords.

    A comparison takes tens of milliseconds of processor time. So the last right password of each user is remembered,
    not as itself but by a keyed hash whose key is of this object. And of each client one password is compared at a
    time, so that those who try many wait for themselves, and not those who have come for a scrape.

    For use on the event loop.

    Args:
        users: bcrypt hashes by user name; at least one.
        threads: Where passwords are compared.

    """

    def __init__(self, users: Mapping[str, SecretStr], threads: Executor) -> None:
        self._hashes = {name: value.get_secret_value().encode() for name, value in users.items()}
        self._threads = threads
        # What an unknown user is compared with. No known one takes longer, and no result of it counts.
        self._substitute = max(self._hashes.values(), key=_cost)
        self._key = secrets.token_bytes(32)
        self._right: dict[str, bytes] = {}
        self._running: dict[str, _Comparison] = {}

    async def accept(self, user: str, password: str, client: str) -> bool:
        """Tell whether it is the password of the user.

        Args:
            user: The user name, without a colon.
            password: The password.
            client: Who asks; one password of each is compared at a time.

        Raises:
            BusyError: Another password of this client is being compared.

        """
        fingerprint = hmac.digest(self._key, f"{user}:{password}".encode(), "sha256")
        if hmac.compare_digest(self._right.get(user, b""), fingerprint):
            return True
        if len(password.encode()) > LONGEST_PASSWORD:
            return False
        running = self._running.get(client) or self._compare(user, password, client, fingerprint)
        if running.fingerprint != fingerprint:
            raise BusyError
        is_right = await running.result
        if is_right:
            self._right[user] = fingerprint
        return is_right

    def _compare(self, user: str, password: str, client: str, fingerprint: bytes) -> _Comparison:
        hashed = self._hashes.get(user, self._substitute)
        is_known = user in self._hashes

        def compare() -> bool:
            return bcrypt.checkpw(password.encode(), hashed) and is_known

        result = asyncio.get_running_loop().run_in_executor(self._threads, compare)
        result.add_done_callback(lambda _: self._running.pop(client))
        self._running[client] = comparison = _Comparison(fingerprint, result)
        return comparison


def _cost(hashed: bytes) -> bytes:
    return hashed.split(b"$")[2]
