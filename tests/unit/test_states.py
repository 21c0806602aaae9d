"""The table of transitions says the same as the page that operators read."""

from __future__ import annotations

from prx_email_django.states import TRANSITIONS, WAITING, ErrorCode, RecipientResult, Status

P, S, T, F = Status.PENDING, Status.SENDING, Status.SENT, Status.FAILED
EXPECTED = {
    "enqueue": ("", "P"),
    "claim": ("PF", "S"),
    "finalize": ("S", "TF"),
    "release": ("S", "PF"),
    "recover": ("S", "F"),
    "expire": ("S", "F"),
    "cancel": ("PF", "F"),
    "requeue": ("PF", "PF"),
    "retry": ("PF", "S"),
    "confirm": ("F", "TF"),
    "adopt": ("PSF", "F"),
}
LETTERS = {"P": P, "S": S, "T": T, "F": F}


def test_every_verb_moves_only_where_it_may() -> None:
    expected = {
        verb: (frozenset(LETTERS[one] for one in sources), frozenset(LETTERS[one] for one in targets))
        for verb, (sources, targets) in EXPECTED.items()
    }
    assert {verb: (one.sources, one.targets) for verb, one in TRANSITIONS.items()} == expected


def test_nothing_leaves_sent() -> None:
    assert not [verb for verb, one in TRANSITIONS.items() if Status.SENT in one.sources]


def test_the_stored_words_stay_as_they_are() -> None:
    assert {one.value for one in Status} == {"pending", "sending", "sent", "failed"}
    assert {one.value for one in RecipientResult} == {"", "accepted", "refused", "unknown"}
    assert frozenset({P, F}) == WAITING
    assert {one.value for one in ErrorCode} == {
        "network", "timeout", "tls", "auth", "provider", "recipients_refused", "attachment", "content",
        "unknown_outcome", "lost_claim", "expired", "cancelled", "adopted",
    }  # fmt: skip
