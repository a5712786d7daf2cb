"""The guests and orders imported by the sandbox, as far as they decide whether a record is accepted. Pure.

Each organisation chooses which attributes identify a guest. Here these are the identifiers or, without any, the e-mail
address, so several guests may share an address.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# A code and a message, as in the error log.
Answer = tuple[str, str]

# Beyond this many the oldest is forgotten, to bound the memory of a long demo.
MAX_IDENTITIES = MAX_ORDERS = 100_000
DELETE_MODES = frozenset({"delete", "gdpr_delete"})
ACCEPTED = ("200", "OK")
ALREADY_EXISTS = ("409", "Identity already exists")
SEVERAL_ORDERS = (
    "More than one order exists with that referenceId, please supply the orderedAt date for the order you wish"
)


class Identifier(BaseModel):
    """The ID of a guest in another system."""

    provider: str
    id: str


class Guest(BaseModel):
    """The `value` of a guest's record: the parts that are validated."""

    model_config = ConfigDict(strict=True)

    email: Annotated[str | None, Field(pattern=r"^([^@\s]+@[^@\s]+\.[^@\s]+)?$")] = None
    identifiers: list[Identifier] | None = None
    extensions: list[dict[str, str | int | float | bool | None]] | None = None


class Order(BaseModel):
    """The `value` of an order's record: the parts that are validated."""

    model_config = ConfigDict(strict=True)

    reference_id: Annotated[str | None, Field(alias="referenceId")] = None
    ordered_at: Annotated[str | None, Field(alias="orderedAt")] = None


class Profiles:
    """The data imported by one organisation. Not thread-safe."""

    def __init__(self) -> None:
        # A guest is the tuple of all its identities, and is indexed by each of them.
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
        """Add or delete an order. Orders without a reference are not stored."""
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
