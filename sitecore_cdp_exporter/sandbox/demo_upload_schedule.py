"""When the demo uploads which feed, and what is wrong with each upload. Pure.

In each round every feed uploads one batch. One feed of guests has bad records, with one cause or, every other round,
two. One upload is slow, one sends zip instead of gzip, and one declares its MD5 in upper case. A seeded shuffle assigns
these troubles anew in each round. A feed whose upload failed repairs it and uploads again. So each round shows every
status except `unknown`, at a few batches per minute.
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
# By then the failed batches have their status, and Alertmanager has notified.
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
    """A recurring upload: its name, the schema of its records, and their approximate number."""

    name: str
    schema: str
    records: int

    @property
    def ref_prefix(self) -> str:
        """The 8 hex digits that the refs of its batches start with, by which discovery recognises the feed."""
        return hashlib.md5(self.name.encode()).hexdigest()[:8]

    def new_ref(self) -> str:
        """Return a random UUID of version 4 with the prefix."""
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
    """When in a round a feed allocates a batch, and what is wrong with its file."""

    time: float
    feed: Feed
    trouble: Trouble

    @property
    def upload_time(self) -> float:
        """The time from the allocation to the upload of the file."""
        return SLOW_UPLOAD_TIME if self.trouble is Trouble.SLOW else UPLOAD_TIME


def plan_round(random: Random, number: int = 0) -> list[PlannedUpload]:
    """Plan one upload per feed, each with a different trouble, and later the repaired ones. Rounds count from 0."""
    # Only guests need identifying information.
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
