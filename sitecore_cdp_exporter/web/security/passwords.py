"""Passwords against bcrypt hashes, such that neither time nor load tells or costs more than it must."""

import asyncio
import hmac
import secrets
from collections.abc import Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

import bcrypt
from pydantic import SecretStr

# bcrypt knows no more of a password. Go's CompareHashAndPassword, which all official exporters ask, ignores the rest.
BYTES_THAT_COUNT = 72
# Of each client; all but the first of them wait. So a few programs that have a wrong password do not keep out another
# one of the same address.
MOST_COMPARISONS = 8


class BusyError(Exception):
    """Too many passwords of the same client wait to be compared. Catch it to tell the client to come again."""


@dataclass(slots=True, repr=False)
class Comparisons:
    """The comparisons that are under way, and what came of earlier ones. It outlives the users of the moment.

    Fingerprints stand for a password, its user and the bcrypt hash that it is compared with. So what is remembered
    counts for as long as the hash of the user is the same, whatever else changes.

    Attributes:
        threads: Where passwords are compared.
        key: The key of the fingerprints.
        right: The fingerprint of the last right password, by user.
        under_way: By client and fingerprint, in the order of their turn.

    """

    threads: Executor
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    right: dict[str, bytes] = field(default_factory=dict)
    under_way: dict[str, dict[bytes, asyncio.Task[bool]]] = field(default_factory=dict)


class Passwords:
    """The users and their passwords.

    A comparison takes tens of milliseconds of processor time. So the last right password of each user is remembered,
    not as itself but by a keyed hash. And of each client one password is compared at a time, so that those who try
    many wait for themselves, and not those who have come for a scrape.

    For use on the event loop.

    Args:
        users: bcrypt hashes by user name; at least one.
        comparisons: Those of these users, and of the users before them.

    """

    def __init__(self, users: Mapping[str, SecretStr], comparisons: Comparisons) -> None:
        self._hashes = {name: value.get_secret_value().encode() for name, value in users.items()}
        self._comparisons = comparisons
        # What an unknown user is compared with. No known one takes longer, and no result of it counts.
        self._substitute = max(self._hashes.values(), key=_cost)

    async def accept(self, user: str, password: str, client: str) -> bool:
        """Tell whether it is the password of the user.

        Args:
            user: The user name, without a colon.
            password: The password.
            client: Who asks; one password of each is compared at a time.

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
        # No user and no bcrypt hash has a colon.
        text = b":".join((self._hashes.get(user, b""), user.encode(), password.encode()))
        return hmac.digest(self._comparisons.key, text, "sha256")

    def _begin(self, user: str, password: str, client: str, fingerprint: bytes) -> asyncio.Task[bool]:
        of_client = self._comparisons.under_way.setdefault(client, {})
        if len(of_client) >= MOST_COMPARISONS:
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
