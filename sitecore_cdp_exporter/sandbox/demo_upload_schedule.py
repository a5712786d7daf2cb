"""How often the demo uploads which feed, and what is wrong with each upload. Pure.

In each round every feed uploads one batch. One of guests has bad records, for one cause or, in every other round, for
two; one takes long to upload, one sends a zip in place of gzip, one declares its MD5 in upper case. Which feed has
which trouble differs from round to round, by a seeded shuffle. A feed whose upload failed repairs it and uploads again.
So every status but `unknown` is seen within each round, and a few batches a minute are made.
"""

import hashlib
from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from uuid import uuid4

# All times are seconds at speed 1.
ROUND_TIME = 180.0
TIME_BETWEEN_UPLOADS = 8.0
# From allocating a batch to sending its file.
UPLOAD_TIME = 3.0
SLOW_UPLOAD_TIME = 50.0
# By then the status of the failed batches is known, and Alertmanager has sent its messages.
REPAIR_TIME = 140.0


class Trouble(Enum):
    """What is wrong with an upload."""

    NONE = auto()
    SLOW = auto()
    IDENTITY_MISSING = auto()
    TWO_CAUSES = auto()
    ZIP = auto()
    UPPER_CASE_CHECKSUM = auto()


REPAIRABLE = frozenset(Trouble) - {Trouble.NONE, Trouble.SLOW}


@dataclass(frozen=True)
class Feed:
    """A recurring upload: its name, what its records hold, and about how many there are."""

    name: str
    schema: str
    records: int

    @property
    def ref_prefix(self) -> str:
        """The 8 hex digits that the refs of its batches begin with, so that whoever lists them knows the feed."""
        return hashlib.md5(self.name.encode()).hexdigest()[:8]

    def new_ref(self) -> str:
        """Make up a UUID of version 4 with the prefix."""
        return self.ref_prefix + str(uuid4())[len(self.ref_prefix) :]


FEEDS = (
    Feed("nightly-guests", "guest", 5000),
    Feed("orders-hourly", "order", 1200),
    Feed("web-events", "tracking", 3000),
    Feed("loyalty-updates", "guest", 800),
    Feed("product-catalog", "product", 2000),
)


@dataclass(frozen=True)
class PlannedUpload:
    """When in a round a feed allocates a batch, and what will be wrong with it."""

    time: float
    feed: Feed
    trouble: Trouble

    @property
    def upload_time(self) -> float:
        """How long after that its file is there."""
        return SLOW_UPLOAD_TIME if self.trouble is Trouble.SLOW else UPLOAD_TIME


def plan_round(random: Random, number: int = 0) -> list[PlannedUpload]:
    """Plan one upload a feed, each with another trouble, and the repaired ones later. Rounds count from 0."""
    # Only a guest must say who it is.
    rejected_feed = random.choice([feed for feed in FEEDS if feed.schema == "guest"])
    rejected = Trouble.TWO_CAUSES if number % 2 else Trouble.IDENTITY_MISSING
    troubles = [Trouble.NONE, Trouble.SLOW, Trouble.ZIP, Trouble.UPPER_CASE_CHECKSUM]
    random.shuffle(troubles)
    uploads = [
        PlannedUpload(turn * TIME_BETWEEN_UPLOADS, feed, rejected if feed is rejected_feed else troubles.pop())
        for turn, feed in enumerate(FEEDS)
    ]
    repaired = [
        PlannedUpload(upload.time + REPAIR_TIME, upload.feed, Trouble.NONE)
        for upload in uploads
        if upload.trouble in REPAIRABLE
    ]
    return uploads + repaired
