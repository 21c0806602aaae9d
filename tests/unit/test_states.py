"""The table of transitions: a verb that moves a message elsewhere than the table says surprises every other verb."""

from __future__ import annotations

from prx_email_django.states import TRANSITIONS, WAITING, ErrorCode, RecipientResult, Status

P, S, T, F = Status.PENDING, Status.SENDING, Status.SENT, Status.FAILED
LETTERS = {"P": P, "S": S, "T": T, "F": F}
#: Verb -> pairs of the letters of the status before and after.
EXPECTED = {
    "enqueue": "",
    "send": "",
    "import": "",
    "claim": "PS FS",
    "finalize": "ST SF",
    "release": "SP SF",
    "recover": "SF ST",
    "expire": "SF ST",
    "late result": "PT FT",
    "reinstate": "FF",
    "cancel": "PF FF",
    "requeue": "PP FF",
    "retry": "PS FS",
    "confirm": "FF FT",
    "adopt": "PF SF ST FF",
    "erase": "PP FF FT",
}


def test_every_verb_moves_only_where_it_may() -> None:
    expected = {
        verb: {(LETTERS[pair[0]], LETTERS[pair[1]]) for pair in pairs.split()} for verb, pairs in EXPECTED.items()
    }
    assert {verb: transition.moves for verb, transition in TRANSITIONS.items()} == expected
    assert {verb: transition.entry for verb, transition in TRANSITIONS.items() if transition.entry} == {
        "enqueue": P,
        "send": S,
        "import": T,
    }


def test_nothing_leaves_sent() -> None:
    assert not [verb for verb, transition in TRANSITIONS.items() if Status.SENT in transition.sources]


def test_the_stored_words_stay_as_they_are() -> None:
    assert {status.value for status in Status} == {"pending", "sending", "sent", "failed"}
    assert {result.value for result in RecipientResult} == {"", "accepted", "refused", "unknown"}
    assert frozenset({P, F}) == WAITING
    assert {code.value for code in ErrorCode} == {
        "network", "timeout", "tls", "auth", "configuration", "provider", "recipients_refused", "attachment", "content",
        "unknown_outcome", "lost_claim", "expired", "cancelled", "adopted",
    }  # fmt: skip
