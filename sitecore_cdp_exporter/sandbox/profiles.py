"""The guests and orders that the sandbox has imported, as far as they decide what becomes of a record. Pure.

Which attributes identify a guest is up to each organisation. Here it is the identifiers or, without any, the e-mail
address; so several guests may share an address.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# A code and a message, as the error log has them.
Answer = tuple[str, str]

# Beyond this many the oldest is forgotten, so that a long demo stays small.
MAX_IDENTITIES = MAX_ORDERS = 100_000
DELETE_MODES = frozenset({"delete", "gdpr_delete"})
ACCEPTED = ("200", "OK")
ALREADY_EXISTS = ("409", "Identity already exists")
SEVERAL_ORDERS = (
    "More than one order exists with that referenceId, please supply the orderedAt date for the order you wish"
)


class Identifier(BaseModel):
    """What another system knows a guest by."""

    provider: str
    id: str


class Guest(BaseModel):
    """The `value` of a guest's record, as far as it is checked."""

    model_config = ConfigDict(strict=True)

    email: Annotated[str | None, Field(pattern=r"^([^@\s]+@[^@\s]+\.[^@\s]+)?$")] = None
    identifiers: list[Identifier] | None = None
    extensions: list[dict[str, str | int | float | bool | None]] | None = None


class Order(BaseModel):
    """The `value` of an order's record, as far as it is checked."""

    model_config = ConfigDict(strict=True)

    reference_id: Annotated[str | None, Field(alias="referenceId")] = None
    ordered_at: Annotated[str | None, Field(alias="orderedAt")] = None


class Profiles:
    """What one organisation has imported. Used by one thread at a time."""

    def __init__(self) -> None:
        # Each guest is all of its identities, and is found by any.
        self._guests: dict[str, list[tuple[str, ...]]] = {}
        self._orders: dict[str, list[str | None]] = {}

    def import_guest(self, mode: str, guest: Guest) -> Answer:
        """Add, change or delete a guest."""
        identifiers = [f"{identifier.provider} {identifier.id}" for identifier in guest.identifiers or ()]
        address = [guest.email.lower()] if guest.email else []
        matches = next((self._guests[key] for key in identifiers or address if key in self._guests), [])
        known, count = matches[0] if matches else (), len(matches)
        if not identifiers and not address:
            return "400", "Not enough identifying info" if mode in DELETE_MODES else "Identity information missing"
        if known and mode == "create":
            return ALREADY_EXISTS
        self._forget(known)
        if mode not in DELETE_MODES:
            self._remember(tuple(dict.fromkeys([*known, *identifiers, *address])))
            return ACCEPTED
        if count > 1:
            return "200", f"{count} matches found for this guest, 1st match deleted"
        return ("200", "Guest and associated entities deleted") if known else ("404", "Guest not found")

    def import_order(self, mode: str, order: Order) -> Answer:
        """Add or delete an order. One without a reference is not remembered."""
        times = self._orders.get(order.reference_id or "", [])
        if mode in DELETE_MODES:
            matches = [time for time in times if order.ordered_at in {None, time}]
            if len(matches) > 1:
                return "400", f"{SEVERAL_ORDERS} to delete"
            if not matches:
                return "404", "No order found for the provided referenceId and orderedAt attributes"
            times.remove(matches[0])
            return "200", "Order and associated entities deleted"
        if order.ordered_at in times:
            return ALREADY_EXISTS if mode == "create" else ACCEPTED
        if order.reference_id:
            self._orders[order.reference_id] = [*times, order.ordered_at]
            if len(self._orders) > MAX_ORDERS:
                del self._orders[next(iter(self._orders))]
        return ACCEPTED

    def _remember(self, guest: tuple[str, ...]) -> None:
        for key in guest:
            self._guests.setdefault(key, []).append(guest)
        while len(self._guests) > MAX_IDENTITIES:
            self._forget(next(iter(self._guests.values()))[0])

    def _forget(self, guest: tuple[str, ...]) -> None:
        for key in guest:
            self._guests[key].remove(guest)
            if not self._guests[key]:
                del self._guests[key]
