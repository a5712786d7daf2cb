"""One organisation of Sitecore CDP: its polls, and the requests in flight, each sent once for all polls that need it.

Not thread-safe: the poller calls it under its own lock.
"""

from dataclasses import dataclass

from sitecore_cdp_exporter.poll.memory import Memory
from sitecore_cdp_exporter.poll.poll import Poll
from sitecore_cdp_exporter.poll.request import AskBatch, BatchReader, Request


@dataclass(eq=False, slots=True)
class Job:
    """A request in flight, and the poll that it was sent for."""

    request: Request
    poll: Poll


class Organisation:
    """The requests of all polls of one organisation. Polls take turns, so that none has to wait for another to finish.

    Attributes:
        api: The client that sends them.
        memory: The state of the organisation.
        threads: The number of threads that send requests.
        polls_begun: The number of polls so far.
        trial: The job that tests whether the API accepts requests again. Until it ends, no other starts.

    """

    def __init__(self, api: BatchReader, memory: Memory) -> None:
        self.api = api
        self.memory = memory
        self.threads = 0
        self.polls_begun = 0
        self.trial: Job | None = None
        # Polls that may have requests left, in the order of their turns.
        self.polls: list[Poll] = []
        self._under_way: dict[Request, Job] = {}

    def add(self, poll: Poll) -> None:
        """Send the requests of a poll from now on, until it is over."""
        self.polls_begun += 1
        self.polls.append(poll)

    def drop_those_over(self, now: float) -> None:
        """Drop polls that have finished, or reached their deadline."""
        self.polls = [poll for poll in self.polls if not poll.over(now)]

    def take(self) -> Job | None:
        """Start the next request. None if there is none, or the concurrency limit is reached."""
        for _ in range(len(self.polls)):
            poll = self.polls.pop(0)
            self.polls.append(poll)
            while len(self._under_way) < poll.config.api.concurrency and poll.queue:
                request = poll.queue.popleft()
                if not poll.wants(request):
                    # Another poll has got the answer.
                    continue
                if request not in self._under_way:
                    job = self._under_way[request] = Job(request, poll)
                    return job
        return None

    def end(self, job: Job) -> list[Poll]:
        """End a request, and return the polls that its answer is for, starting with the one it was sent for."""
        del self._under_way[job.request]
        if self.trial is job:
            self.trial = None
        return [job.poll, *(poll for poll in self.polls if poll is not job.poll and poll.wants(job.request))]

    def leave(self, poll: Poll) -> None:
        """Note that a scrape ends now, so the requests in flight for it come too late."""
        for request in self._under_way:
            if isinstance(request, AskBatch) and request.key in poll.pending:
                poll.records[request.key].missed = True

    def wanted_threads(self) -> int:
        """Return how many threads there is work for."""
        if self.trial is not None or not self.polls:
            return len(self._under_way)
        requests = len(self._under_way) + sum(len(poll.queue) for poll in self.polls)
        return min(requests, max(poll.config.api.concurrency for poll in self.polls))
