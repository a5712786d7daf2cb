"""Update what is known about the API, a batch and the list from each answer.

Moments are of the monotonic clock, in seconds. The first of the polls is the one that the request was sent for.
"""

import logging
from collections import Counter
from collections.abc import Callable

from sitecore_cdp_exporter.api.batch import BatchAnswer, BatchPage
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.error_log_url import LogUrl
from sitecore_cdp_exporter.api.errors import BATCH_REASONS, PollError, Reason
from sitecore_cdp_exporter.poll.backoff import is_trouble
from sitecore_cdp_exporter.poll.batch_log import MAX_LOGGED, log_change, log_end, log_status
from sitecore_cdp_exporter.poll.poll import Poll
from sitecore_cdp_exporter.poll.reading import Outcome, Reading, is_answer
from sitecore_cdp_exporter.poll.request import AskBatch, Request
from sitecore_cdp_exporter.poll.retention import Kept

logger = logging.getLogger(__name__)

# One 403 means somebody else's batch; three in a row before anything else mean that the API refuses the credentials.
ANSWERS_THAT_SHOW_A_REFUSAL = 3
# A 5xx may also concern a single batch. A poll with fewer requests than this puts no load on the API.
MIN_ANSWERS_OF_TROUBLE = 3

# What a poll knows of a batch once it was answered like this. The others are those of an API that says nothing of it.
ANSWERS_FOR_A_BATCH = BATCH_REASONS | {Reason.BAD_RESPONSE, Reason.HTTP_ERROR, Reason.SERVER_ERROR}


def learn_of_api(
    request: Request,
    polls: list[Poll],
    answer: BatchAnswer | BatchPage | PollError,
    credentials: Credentials | PollError,
    now: float,
    wall_now: float,
) -> None:
    """Update from a finished request whether the API is up, and whether it accepts requests."""
    memory = polls[0].memory
    error = answer if isinstance(answer, PollError) else None
    memory.last_request = now
    if error is None:
        memory.api_last_success = wall_now
    if not isinstance(credentials, PollError):
        memory.backoff.record(credentials, error, now)
    if not polls[0].is_probe:
        memory.health.note(error, of_batch=isinstance(request, AskBatch))
    for poll in polls:
        poll.answers += is_answer(error)
        poll.troubles += is_trouble(error)
    # A batch that was forbidden before does not count: the 403 is its own, even if there are no other requests.
    was_forbidden = isinstance(request, AskBatch) and _is_forbidden(polls[0].records[request.key].failure)
    if isinstance(credentials, PollError) or was_forbidden or (error is not None and error.status is None):
        return
    for poll in polls:
        poll.first_answers.append(error)
        if len(poll.first_answers) == ANSWERS_THAT_SHOW_A_REFUSAL and all(map(_is_forbidden, poll.first_answers)):
            memory.backoff.refuse(credentials, now)


def learn_batch(
    request: AskBatch, polls: list[Poll], outcome: Outcome, now: float, log_url: LogUrl | None = None
) -> None:
    """Record the answer of a batch, and pass it to the polls. The URL of its error log is queued."""
    key = request.key
    # The polls of one batch share its record, unless it has been forgotten and probed again.
    for poll in {id(poll.records[key]): poll for poll in polls}.values():
        record = poll.records[key]
        if poll.logged < MAX_LOGGED:
            watched = poll.kept.watched[key]
            feed = poll.config.feeds_by_name.get(watched.feed or "")
            poll.logged += log_change(watched, record, outcome, feed, listed=key in poll.memory.watched)
            if poll.logged == MAX_LOGGED:
                log_end()
        record.learn(outcome, request.listed, now, poll.config.recheck_finished)
        error_logs = poll.memory.error_logs
        if isinstance(outcome, Reading):
            record.log = error_logs.learn(key, record.log, outcome.batch, log_url, now)
        elif outcome.reason in BATCH_REASONS:
            error_logs.refuse(key, outcome.reason, now)
    for poll in polls:
        poll.note(key, outcome, now)


def end_list(poll: Poll, failure: Reason | None, now: float, watch: Callable[[], Kept]) -> None:
    """Plan the rest of a poll, from the list or, if that failed, from what is known without it.

    Args:
        poll: The poll.
        failure: Why the list could not be read. None: it was read.
        now: The current time.
        watch: Updates the watch list.

    """
    memory, discovery = poll.memory, poll.discovery
    poll.end_discovery(failure)
    # Otherwise a reload has switched discovery off, and a later poll has started without it.
    if discovery is memory.discovery:
        if discovery.revision != poll.revision:
            poll.show(watch())
        if failure is None:
            statuses = discovery.statuses
            poll.totals_by_feed = Counter((memory.watched[key].feed, status) for key, status in statuses.items())
        changed = discovery.take_changed()
        for batch in changed[:MAX_LOGGED]:
            log_status(memory.watched[batch.ref.lower()], batch.status)
        if len(changed) > MAX_LOGGED:
            log_end()
    # If the list could not be read before, skipping it changes nothing.
    if failure is not memory.list_failure and not (failure is Reason.SKIPPED and memory.list_failure is not None):
        memory.list_failure = failure
        if failure is None:
            logger.info("the list of batches can be read again")
            # Whatever refused the list may also have refused details, which was then not about their batch.
            memory.forget_refusals()
        else:
            problem = discovery.problem if failure is Reason.BAD_RESPONSE and discovery.complete else None
            logger.warning(
                "the list of batches cannot be read",
                extra={"reason": f"{failure}"} | ({"problem": problem} if problem else {}),
            )
    poll.ask_batches(now)


def judge_api(poll: Poll, now: float, *, over: bool) -> None:
    """Decide whether the API is up and not in trouble; before a poll is over only good news is believed."""
    backoff = poll.memory.backoff
    poll.memory.health.judge(over=over, credentials_refused=backoff.credentials_refused, skipped=poll.skipped)
    if over:
        if poll.answers == poll.troubles >= MIN_ANSWERS_OF_TROUBLE:
            backoff.pause(now)
        # Other scrapes may share the poll, and it must count once.
        poll.answers = poll.troubles = 0


def note_complete(poll: Poll, now: float, wall_now: float) -> None:
    """Note that everything watched has been answered for, unless something has not, or the API is down."""
    if (
        _is_listed(poll)
        and poll.memory.health.up is not False
        and all(_is_answered_for(poll, key, now) for key in poll.records)
    ):
        poll.memory.complete_poll = wall_now


def _is_listed(poll: Poll) -> bool:
    """Return whether the list was read, save for items that are not readable: those may stay in it for a month."""
    return (
        not poll.config.discovery.enabled
        or poll.list_failure is None
        or (poll.list_failure is Reason.BAD_RESPONSE and poll.discovery.complete and poll.discovery.unreadable > 0)
    )


def _is_answered_for(poll: Poll, key: str, now: float) -> bool:
    record = poll.records[key]
    if poll.is_unread(key):
        if record.refused == poll.listed(key):
            return True
    elif record.finished or key in poll.seen_unfinished:
        return True
    outcome = poll.outcomes.get(key) or record.late_answer(now)
    return isinstance(outcome, Reading) or (outcome is not None and outcome.reason in ANSWERS_FOR_A_BATCH)


def _is_forbidden(error: PollError | None) -> bool:
    return error is not None and error.reason is Reason.FORBIDDEN
