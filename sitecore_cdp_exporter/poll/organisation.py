"""One organisation of Sitecore CDP: its polls, and the requests under way, each sent once for all who wait for it.

It does not lock: the poller calls it under its own lock.
"""

from dataclasses import dataclass

from sitecore_cdp_exporter.poll.memory import Memory
from sitecore_cdp_exporter.poll.poll import Poll
from sitecore_cdp_exporter.poll.request import AskBatch, BatchReader, Request


@dataclass(eq=False, slots=True)
class Job:
    """A request under way, and the poll that it is sent for."""

    request: Request
    poll: Poll


class Organisation:
    """The requests of all polls of one organisation. Polls take turns, so that none has to wait for all of another.

    Attributes:
        api: Where they are sent.
        memory: What is remembered of the organisation.
        threads: How many threads send them.
        polls_begun: How many polls there were so far.
        trial: The job that shows whether the API takes requests again; no other is begun until it has ended.

    """

    def __init__(self, api: BatchReader, memory: Memory) -> None:
        self.api = api
        self.memory = memory
        self.threads = 0
        self.polls_begun = 0
        self.trial: Job | None = None
        # Those that may have something to ask; the one whose turn it is comes first.
        self.polls: list[Poll] = []
        self._under_way: dict[Request, Job] = {}

    def add(self, poll: Poll) -> None:
        """Ask for what a poll asks for, until it is over."""
        self.polls_begun += 1
        self.polls.append(poll)

    def drop_those_over(self, now: float) -> None:
        """Ask no more for polls that have ended, or whose time has."""
        self.polls = [poll for poll in self.polls if not poll.over(now)]

    def take(self) -> Job | None:
        """Begin the next request; None: there is nothing to ask, or enough is under way."""
        for _ in range(len(self.polls)):
            poll = self.polls.pop(0)
            self.polls.append(poll)
            while len(self._under_way) < poll.config.api.concurrency and poll.queue:
                request = poll.queue.popleft()
                if not poll.wants(request):
                    # It was answered for another poll.
                    continue
                if request not in self._under_way:
                    job = self._under_way[request] = Job(request, poll)
                    return job
        return None

    def end(self, job: Job) -> list[Poll]:
        """End a request and return the polls that its answer is for: first the one that it was sent for."""
        del self._under_way[job.request]
        if self.trial is job:
            self.trial = None
        return [job.poll, *(poll for poll in self.polls if poll is not job.poll and poll.wants(job.request))]

    def leave(self, poll: Poll) -> None:
        """Note that a scrape ends now: what is under way for it comes too late."""
        for request in self._under_way:
            if isinstance(request, AskBatch) and request.key in poll.pending:
                poll.records[request.key].missed = True

    def wanted_threads(self) -> int:
        """Return how many threads have something to do."""
        if self.trial is not None or not self.polls:
            return len(self._under_way)
        requests = len(self._under_way) + sum(len(poll.queue) for poll in self.polls)
        return min(requests, max(poll.config.api.concurrency for poll in self.polls))
