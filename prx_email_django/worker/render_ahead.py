"""Renders claimed messages ahead for the connections of one account, in short steps and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from prx_email_django.worker.outgoing import ClaimedMessage
from prx_email_django.worker.permits import AccountPermits
from prx_email_django.worker.queues import ReadyQueue
from prx_email_django.worker.recorder import Recorder

#: Bytes that may be rendered ahead.  If nothing is rendered, one message is, whatever its size.
RENDER_AHEAD = 4 * 1024 * 1024
#: Messages that are rendered in one step, per connection.  Meanwhile no result is recorded, and few results per
#: connection may wait for that: long steps made the connections wait.
RENDER_AT_ONCE = 4


class RenderAhead:
    """Takes messages from ``unrendered`` and hands them to ``ready``; ``forget`` is told of those that failed."""

    def __init__(
        self,
        unrendered: deque[ClaimedMessage],
        ready: ReadyQueue,
        *,
        recorder: Recorder,
        permits: AccountPermits,
        forget: Callable[[ClaimedMessage], None],
    ) -> None:
        self.unrendered = unrendered
        self.ready = ready
        self.recorder = recorder
        self.permits = permits
        self.forget = forget

    def render(self) -> bool:
        """Render some messages; True: the ready queue has a new message."""
        rendered: list[ClaimedMessage] = []
        size = self.ready.ready_bytes
        most = RENDER_AT_ONCE * self.ready.max_connections
        try:
            while (
                self.unrendered and len(rendered) < most and (size < RENDER_AHEAD or not (self.ready.ready or rendered))
            ):
                message = self.unrendered[0]
                failure = message.render()
                if failure is None:
                    size += len(message.body)
                    rendered.append(message)
                else:
                    self.recorder.release_permits(message.permits)
                    self.recorder.failed(message.claim, failure)
                    self.forget(message)
                self.unrendered.popleft()
        finally:  # an unexpected error must not lose the messages that were rendered before it
            self.ready.push(rendered)
        if rendered:
            self.permits.used()
        return bool(rendered)

    def may_render(self) -> bool:
        """Whether a message is claimed that may be rendered now."""
        return bool(self.unrendered) and (self.ready.ready_bytes < RENDER_AHEAD or not self.ready.ready)
