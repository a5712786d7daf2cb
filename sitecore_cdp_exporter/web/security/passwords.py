"""Compare passwords with bcrypt hashes, without revealing users by timing or letting a flood block a scrape."""

import asyncio
import hmac
import secrets
from collections.abc import Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

import bcrypt
from pydantic import SecretStr

# bcrypt uses no more of a password. Go's CompareHashAndPassword, which all official exporters use, ignores the rest.
BYTES_THAT_COUNT = 72
# Per client; all but the first wait. So a few programs with a wrong password do not lock out another one at the same
# address.
MAX_COMPARISONS = 8


class BusyError(Exception):
    """Too many passwords of the same client wait to be compared. Catch it to ask the client to retry later."""


@dataclass(slots=True, repr=False)
class Comparisons:
    """The running comparisons, and the results of earlier ones. Kept when the web config is reloaded.

    A fingerprint identifies a password, its user and the bcrypt hash that it is compared with. So a result is valid
    as long as the user's hash stays the same, whatever else changes.

    Attributes:
        threads: Where passwords are compared.
        key: The key of the fingerprints.
        right: The fingerprint of the last correct password, by user.
        under_way: The running comparisons by client and fingerprint, in their order.

    """

    threads: Executor
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    right: dict[str, bytes] = field(default_factory=dict)
    under_way: dict[str, dict[bytes, asyncio.Task[bool]]] = field(default_factory=dict)


class Passwords:
    """The users and their passwords.

    A comparison takes tens of milliseconds of CPU time. So the last correct password of each user is remembered as a
    keyed hash. And only one password per client is compared at a time, so that a client that tries many passwords
    delays itself and not the scrapes of others.

    For use on the event loop.

    Args:
        users: bcrypt hashes by user name; at least one.
        comparisons: Shared with the users of earlier web configs.

    """

    def __init__(self, users: Mapping[str, SecretStr], comparisons: Comparisons) -> None:
        self._hashes = {name: value.get_secret_value().encode() for name, value in users.items()}
        self._comparisons = comparisons
        # Compared for unknown users, whose result is ignored. No other hash takes longer.
        self._substitute = max(self._hashes.values(), key=_cost)

    async def accept(self, user: str, password: str, client: str) -> bool:
        """Return whether it is the user's password.

        Args:
            user: The user name, without a colon.
            password: The password.
            client: Who asks; one password per client is compared at a time.

        Raises:
            BusyError: Too many other passwords of this client wait to be compared.

        """
        fingerprint = self._fingerprint(user, password)
        if hmac.compare_digest(self._comparisons.right.get(user, b""), fingerprint):
            return True
        comparison = self._comparisons.under_way.get(client, {}).get(fingerprint)
        if comparison is None:
            comparison = self._begin(user, password, client, fingerprint)
        # Shielded, because others may wait for the same one.
        return await asyncio.shield(comparison)

    def _fingerprint(self, user: str, password: str) -> bytes:
        # Neither users nor bcrypt hashes contain a colon.
        text = b":".join((self._hashes.get(user, b""), user.encode(), password.encode()))
        return hmac.digest(self._comparisons.key, text, "sha256")

    def _begin(self, user: str, password: str, client: str, fingerprint: bytes) -> asyncio.Task[bool]:
        of_client = self._comparisons.under_way.setdefault(client, {})
        if len(of_client) >= MAX_COMPARISONS:
            raise BusyError

        def end(_: asyncio.Task[bool]) -> None:
            del of_client[fingerprint]
            if not of_client:
                del self._comparisons.under_way[client]

        last = list(of_client.values())[-1:]
        of_client[fingerprint] = comparison = asyncio.create_task(self._compare(user, password, fingerprint, last))
        comparison.add_done_callback(end)
        return comparison

    async def _compare(
        self, user: str, password: str, fingerprint: bytes, after: Collection[asyncio.Task[bool]]
    ) -> bool:
        if after:
            await asyncio.wait(after)
        loop = asyncio.get_running_loop()
        is_right = await loop.run_in_executor(self._comparisons.threads, self._is_right, user, password)
        if is_right:
            self._comparisons.right[user] = fingerprint
        return is_right

    def _is_right(self, user: str, password: str) -> bool:
        hashed = self._hashes.get(user, self._substitute)
        return bcrypt.checkpw(password.encode()[:BYTES_THAT_COUNT], hashed) and user in self._hashes


def _cost(hashed: bytes) -> bytes:
    return hashed.split(b"$")[2]
