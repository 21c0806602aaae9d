"""What becomes of claimed messages before they are rendered: most may be sent, the others are recorded or released."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

from prx_email_django.limits.rate_windows import Permits, give_back
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Ending, Outcome
from prx_email_django.rules.rates import recipients_ceiling
from prx_email_django.states import ErrorCode
from prx_email_django.store.claimed import Claim, envelope_sizes
from prx_email_django.worker.claim_source import ClaimSource
from prx_email_django.worker.current import CurrentAccount
from prx_email_django.worker.outgoing import ClaimedMessage
from prx_email_django.worker.permits import AccountPermits
from prx_email_django.worker.recorder import Recorder


class Admission:
    """Decides for the claims of one account; a claim with a result is removed from ``claims``."""

    def __init__(  # noqa: PLR0913  (what a drain shares with its accounts)
        self,
        current: CurrentAccount,
        *,
        claims: MutableMapping[int, Claim],
        source: ClaimSource,
        clock: Clock,
        recorder: Recorder,
        permits: AccountPermits,
    ) -> None:
        self._current = current
        self._claims = claims
        self._source = source
        self._clock = clock
        self._recorder = recorder
        self._permits = permits

    def admit(self, claims: Sequence[Claim], permits: Permits) -> tuple[list[ClaimedMessage], list[ClaimedMessage]]:
        """Messages that may be sent, and those without permits for their recipients, which the caller releases.

        ``permits`` were taken for the messages.
        """
        single = permits.part(1)
        open_claims: list[Claim] = []
        for claim in claims:
            if claim.recipients and not claim.open_addresses:
                self._recorder.settle(claim)
                self._claims.pop(claim.id)
                give_back(single, 1, clock=self._clock)
            else:
                open_claims.append(claim)
        fresh, expired = self._source.split_expired(open_claims)
        if expired:
            self._recorder.expire(expired)
            for claim in expired:
                self._claims.pop(claim.id)
            give_back(permits, len(expired), clock=self._clock)
        return self._with_permits(self._within_ceiling(fresh, single), single)

    def _within_ceiling(self, claims: Sequence[Claim], single: Permits) -> list[Claim]:
        """Fail the messages with more recipients than a limit that was lowered: they could never be sent."""
        ceiling = recipients_ceiling(self._current.account.rate_limits)
        if ceiling is None:
            return list(claims)
        within = [claim for claim in claims if claim.envelope_size <= ceiling]
        for claim in claims:
            if claim.envelope_size > ceiling:
                text = f"the message has more recipients than the account's limit ({ceiling})"
                self._recorder.failed(claim, Outcome(Ending.PERMANENT, error_code=ErrorCode.CONTENT, error=text))
                self._claims.pop(claim.id)
                give_back(single, 1, clock=self._clock)
        return within

    def _with_permits(
        self, claims: Sequence[Claim], single: Permits
    ) -> tuple[list[ClaimedMessage], list[ClaimedMessage]]:
        """Take permits for the recipients of as many as possible; ``single`` was taken for each message."""
        counts = envelope_sizes(claims)
        recipients, fitting = self._permits.take_recipients(counts)
        if fitting < len(claims):
            self._permits.limit(recipients.obstacle)
        permits = {count: (single, recipients.part(count)) for count in set(counts)}
        admitted = [
            ClaimedMessage(claim, clock=self._clock, permits=permits[count])
            for claim, count in zip(claims[:fitting], counts[:fitting], strict=True)
        ]
        return admitted, [ClaimedMessage(claim, clock=self._clock, permits=(single,)) for claim in claims[fitting:]]
