"""What the results of an account's messages say about the account and its server."""

from __future__ import annotations

from collections.abc import Sequence

from prx_email_django.rules.obstacles import Obstacle, ObstacleKind
from prx_email_django.rules.outcomes import Ending, Trouble
from prx_email_django.worker.claim_source import ClaimSource
from prx_email_django.worker.connections import Connections
from prx_email_django.worker.outgoing import ClaimedMessage
from prx_email_django.worker.prefetch import ClaimPrefetch
from prx_email_django.worker.suspicion import Suspicion
from prx_email_django.worker.trouble import LIMITED, Pace, Troubles, Work


class Learning:
    """Learns from results once they are recorded: about tokens, the server's pace, trouble and its end."""

    def __init__(  # noqa: PLR0913  (what results say something about)
        self,
        connections: Connections,
        *,
        work: Work,
        source: ClaimSource,
        prefetch: ClaimPrefetch,
        pace: Pace,
        troubles: Troubles,
        suspicion: Suspicion,
    ) -> None:
        self.tokens = connections.tokens
        self.work = work
        self.source = source
        self.prefetch = prefetch
        self.pace = pace
        self.troubles = troubles
        self.suspicion = suspicion

    def note_tokens(self, messages: Sequence[ClaimedMessage]) -> None:
        """Tell the tokens what the server made of them; a session that demands a login anew gets a fresh token."""
        for message in messages:
            connection = message.connection
            if connection is None or not connection.token:
                continue
            if message.outcome.is_completed:
                self.tokens.completed(connection.token)
            elif message.outcome.trouble is Trouble.AUTH and not connection.token_ended:
                connection.token_ended = self.tokens.refused(connection.token, logged_in=True)

    def learn(self, messages: Sequence[ClaimedMessage]) -> None:
        """Note the end of trouble, and trouble."""
        accepted, quiet = Ending.ACCEPTED, Trouble.NONE
        for message in messages:
            outcome = message.outcome
            if outcome.ending is accepted:
                self.pace.accepted()
                if outcome.trouble is quiet:
                    self._note_completed(message)
                    continue
            if outcome.trouble is Trouble.NONE:
                if outcome.is_completed and not self.suspicion.is_active:
                    self._note_completed(message)
            elif outcome.trouble.is_throttle:
                self._throttled(outcome.trouble)
            else:
                if message.connection is not None:
                    message.connection.trouble_noted = True
                    if message.connection.token_ended and outcome.trouble is Trouble.AUTH:
                        continue
                self.troubles.note(outcome.trouble, outcome.error)

    def _throttled(self, trouble: Trouble) -> None:
        """Slow down; a caller who waits for one message does not wait for that."""
        self.pace.throttled(trouble)
        if self.source.tries_once:
            self.prefetch.permits.limited_by = Obstacle(ObstacleKind.SLOW)
        elif self.pace.is_hopeless:
            self.work.stop(LIMITED)

    def _note_completed(self, message: ClaimedMessage) -> None:
        """The server completed a transaction of the account: its trouble may be over."""
        self.prefetch.lookahead.note_completed()
        if (self.troubles.are_known or self.prefetch.after_pause) and self.troubles.end_by(message):
            self.prefetch.probing = self.prefetch.after_pause = False
            self.prefetch.look_again()
