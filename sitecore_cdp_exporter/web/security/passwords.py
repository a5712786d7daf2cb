"""Compare passwords with bcrypt hashes, without revealing users by timing or letting a flood block a scrape."""

import asyncio
import hmac
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import bcrypt
from pydantic import SecretStr

# bcrypt uses no more of a password. Go's CompareHashAndPassword, which all official exporters use, ignores the rest.
BYTES_THAT_COUNT = 72


class Comparisons:
    """Compares passwords with bcrypt hashes, one after the other, and remembers the correct ones.

    A comparison takes tens of milliseconds of CPU time, on a thread of its own. So the last correct password for
    each hash is remembered, as a keyed fingerprint. It counts as long as a user has that hash, even across reloads.

    For use on the event loop.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bcrypt")
        self._turn = asyncio.Lock()
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, bytes] = {}

    async def is_right(self, password: str, hashed: bytes) -> bool:
        """Return whether the hash is of this password."""
        fingerprint = hmac.digest(self._key, hashed + password.encode(), "sha256")
        if self._is_remembered(hashed, fingerprint):
            return True
        async with self._turn:
            # The same password may have been accepted meanwhile.
            if self._is_remembered(hashed, fingerprint):
                return True
            known = password.encode()[:BYTES_THAT_COUNT]
            is_right = await asyncio.get_running_loop().run_in_executor(self._thread, bcrypt.checkpw, known, hashed)
            if is_right:
                self._right[hashed] = fingerprint
            return is_right

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _is_remembered(self, hashed: bytes, fingerprint: bytes) -> bool:
        return hmac.compare_digest(self._right.get(hashed, b""), fingerprint)


class Passwords:
    """The users and their passwords.

    Args:
        users: bcrypt hashes by user name; at least one.
        comparisons: Shared with the users of earlier web configs.

    """

    def __init__(self, users: Mapping[str, SecretStr], comparisons: Comparisons) -> None:
        self._hashes = {name: value.get_secret_value().encode() for name, value in users.items()}
        self._comparisons = comparisons
        # Compared for unknown users, whose result is ignored. No other hash takes longer.
        self._substitute = max(self._hashes.values(), key=_cost)

    async def accept(self, user: str, password: str) -> bool:
        """Return whether it is the user's password."""
        hashed = self._hashes.get(user, self._substitute)
        return await self._comparisons.is_right(password, hashed) and user in self._hashes


def _cost(hashed: bytes) -> bytes:
    return hashed.split(b"$")[2]
