"""Reading and judging replies: tables, and whatever octets a server may send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.rules.outcomes import Answer, Ending, Phase, Trouble
from prx_email_django.rules.text import MAX_TEXT, clean
from prx_email_django.transports.smtp.replies import (
    MAX_LINE,
    MAX_LINES,
    READINGS,
    Loss,
    MalformedReply,
    Meaning,
    Reply,
    ReplyParser,
    answer,
    judge,
    judge_loss,
    names_session,
    read,
)


def reply(text: str) -> Reply:
    (one,) = ReplyParser().feed(text.replace("\n", "\r\n").encode() + b"\r\n")
    return one


# Reading


def test_lines_of_one_reply_become_one_text_without_repeated_codes() -> None:
    one = reply("550-5.1.1 The account\n550-5.1.1 that you tried\n550 5.1.1 does not exist")
    assert (one.code, one.enhanced) == (550, "5.1.1")
    assert str(one) == "550 5.1.1 The account that you tried does not exist"


@pytest.mark.parametrize(
    ("text", "enhanced"),
    [("250 2.1.5 ok", "2.1.5"), ("250 ok 2.1.5", ""), ("250", ""), ("550 5.7.1", "5.7.1"), ("550 5.7.1234 x", "")],
)
def test_enhanced_code_stands_at_the_start(text: str, enhanced: str) -> None:
    assert reply(text).enhanced == enhanced


def test_replies_in_one_segment_stay_apart() -> None:
    replies = ReplyParser().feed(b"250 one\r\n250-two\r\n250 more\r\n354\r\n55")
    assert [str(one) for one in replies] == ["250 one", "250 two more", "354 "]


@given(st.integers(1, 70), st.integers(1, 70))
def test_cuts_between_segments_change_nothing(first: int, second: int) -> None:
    octets = b"250-2.1.0 first\r\n250 2.1.0 last\r\n550 5.1.1 no\n354 go\r\n"
    parser, replies = ReplyParser(), []
    for piece in (octets[:first], octets[first : first + second], octets[first + second :]):
        replies += parser.feed(piece)
    assert [one.code for one in replies] == [250, 550, 354]
    assert replies[0].lines == [b"2.1.0 first", b"2.1.0 last"]


@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n",
        b"hello\r\n",
        b"25\r\n",
        b"2500 x\r\n",
        b"199 x\r\n",
        b"600 x\r\n",
        b"\xb2\xb2\xb2 x\r\n",
        b"250_x\r\n",
        b"250-a\r\n251 b\r\n",
        b"250 " + b"x" * MAX_LINE + b"\r\n",
        b"2" * (MAX_LINE + 1),
        b"250-x\r\n" * (MAX_LINES + 1),
    ],
)
def test_what_is_no_reply_is_garbage(octets: bytes) -> None:
    with pytest.raises(MalformedReply) as garbage:
        ReplyParser().feed(octets)
    assert len(str(garbage.value)) <= MAX_TEXT


def test_replies_before_the_garbage_are_kept() -> None:
    replies: list[Reply] = []
    with pytest.raises(MalformedReply):
        ReplyParser().feed_into(b"250 ok\r\nnonsense\r\n", replies)
    assert [one.code for one in replies] == [250]


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_no_octets_break_the_parser_or_its_bounds(pieces: list[bytes]) -> None:
    parser = ReplyParser()
    try:
        for piece in pieces:
            for one in parser.feed(piece):
                assert 200 <= one.code < 600
                assert len(str(one)) <= MAX_TEXT and str(one).isprintable()
    except MalformedReply as garbage:
        assert str(garbage)


@given(st.integers(200, 599), st.lists(st.binary(max_size=60), min_size=1, max_size=MAX_LINES))
def test_every_well_formed_reply_is_read_whole(code: int, texts: list[bytes]) -> None:
    texts = [text.replace(b"\n", b"").rstrip(b"\r") for text in texts]
    marks = [b"-"] * (len(texts) - 1) + [b" "]
    lines = [b"%d%s%s\r\n" % (code, mark, text) for mark, text in zip(marks, texts, strict=True)]
    (one,) = ReplyParser().feed(b"".join(lines))
    assert (one.code, one.lines) == (code, texts)


@given(st.text(max_size=500))
def test_cleaned_text_is_one_short_printable_line(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned) <= MAX_TEXT
    assert not any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in cleaned)
    assert "\u202e" not in cleaned and "\u2028" not in cleaned
    cleaned.encode()


# Judging replies


@pytest.mark.parametrize(
    ("phase", "text", "meaning"),
    [
        (Phase.RCPT, "452 4.5.3 too many recipients", Meaning.TOO_MANY),
        (Phase.RCPT, "552 5.5.3 too many recipients", Meaning.TOO_MANY),
        (Phase.RCPT, "452 Too many recipients received this hour", Meaning.TOO_MANY),
        (Phase.RCPT, "452 4.2.2 mailbox full", Meaning.PASSING),
        (Phase.RCPT, "552 5.2.2 over quota", Meaning.PASSING),
        (Phase.BODY, "552 5.2.2 over quota", Meaning.PASSING),
        (Phase.RCPT, "552 storage allocation exceeded", Meaning.PASSING),
        (Phase.RCPT, "552 5.3.4 message too big", Meaning.PLAIN),
        (Phase.MAIL, "552 5.3.4 message too big", Meaning.PLAIN),
        (Phase.MAIL, "530 5.7.0 Authentication required", Meaning.SIGNED_OUT),
        (Phase.MAIL, "530 5.7.57 Client not authenticated to send mail", Meaning.SIGNED_OUT),
        (Phase.MAIL, "550 5.7.30 Basic authentication is not supported", Meaning.SIGNED_OUT),
        (Phase.MAIL, "550 authentication is required for relay", Meaning.SIGNED_OUT),
        (Phase.RCPT, "550 5.7.1 relaying denied, authentication required", Meaning.PLAIN),
        (Phase.BODY, "550 5.7.26 unauthenticated email from x is not accepted", Meaning.PLAIN),
        (Phase.BODY, "550 5.4.5 Daily user sending limit exceeded. For more", Meaning.QUOTA),
        (Phase.RCPT, "550 5.7.1 Daily SMTP relay limit exceeded for customer", Meaning.QUOTA),
        (Phase.RCPT, "450 4.2.1 Peak SMTP relay limit exceeded for customer", Meaning.QUOTA),
        (Phase.RCPT, "450 4.2.1 The user you are trying to contact is receiving mail too quickly", Meaning.PLAIN),
        (Phase.BODY, "550 5.7.233 tenant exceeded external recipient rate limit", Meaning.QUOTA),
        (Phase.BODY, "550 5.2.254 continuous errors", Meaning.QUOTA),
        (Phase.BODY, "550 5.2.256 something else", Meaning.PLAIN),
        (Phase.BODY, "454 Throttling failure: Maximum sending rate exceeded.", Meaning.QUOTA),
        (
            Phase.BODY,
            "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process message due "
            "to a permanent exception with message The message can't be submitted because the sender's submission "
            "quota was exceeded.",
            Meaning.QUOTA,
        ),
        (Phase.BODY, "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException", Meaning.QUOTA),
        (Phase.BODY, "554 5.2.0 STOREDRV.Deliver; delivery result banned", Meaning.PLAIN),
        (Phase.MAIL, "451 4.4.5 try later", Meaning.SESSION),
        (Phase.MAIL, "421 Too many messages in this session", Meaning.SESSION),
        (Phase.RCPT, "421 Too many messages in this session", Meaning.SESSION),
        (Phase.RCPT, "450 4.7.1 too many messages for this recipient", Meaning.PLAIN),
        (Phase.BODY, "451 4.4.5 try later", Meaning.PLAIN),
        (Phase.MAIL, "503 5.5.1 nested MAIL command", Meaning.SEQUENCE),
        (Phase.MAIL, "554 5.5.0 SMTP protocol synchronization", Meaning.SEQUENCE),
        (Phase.RCPT, "503 5.5.1 MAIL first", Meaning.PLAIN),
        (Phase.MAIL, "250 too many messages, no: fine", Meaning.PLAIN),
        (Phase.MAIL, "550 5.7.60 SendAsDenied", Meaning.PLAIN),
    ],
)
def test_replies_of_known_servers_are_read_right(phase: Phase, text: str, meaning: Meaning) -> None:
    assert read(phase, reply(text)) is meaning


def test_every_reading_is_reachable_and_negative_only() -> None:
    for row in READINGS:
        assert row.codes or row.enhanced or row.words
        assert all(code >= 400 for code in row.codes)


@pytest.mark.parametrize("phase", [Phase.MAIL, Phase.DATA, Phase.BODY])
@pytest.mark.parametrize("completed", [True, False])
@pytest.mark.parametrize(
    ("text", "ending", "trouble", "code", "over"),
    [
        ("451 4.3.0 later", Ending.TEMPORARY, Trouble.NONE, "provider", False),
        ("452 4.3.1 no space", Ending.TEMPORARY, Trouble.NONE, "provider", False),
        ("550 5.7.1 no", Ending.PERMANENT, Trouble.NONE, "provider", False),
        ("552 5.3.4 too big", Ending.PERMANENT, Trouble.NONE, "provider", False),
        ("554 no", Ending.PERMANENT, Trouble.NONE, "provider", False),
        ("550 5.2.2 full", Ending.TEMPORARY, Trouble.NONE, "provider", False),
        ("550 5.4.5 daily limit", Ending.TEMPORARY, Trouble.QUOTA, "provider", True),
        ("421 4.7.0 daily sending limit", Ending.TEMPORARY, Trouble.QUOTA, "provider", True),
        ("530 5.7.0 log in", Ending.UNTOUCHED, Trouble.AUTH, "auth", True),
    ],
)
def test_verdicts_that_hold_in_every_phase(
    phase: Phase, *, completed: bool, text: str, ending: Ending, trouble: Trouble, code: str, over: bool
) -> None:
    verdict = judge(phase, reply(text), completed=completed)
    assert (verdict.ending, verdict.trouble, verdict.error_code, verdict.over) == (ending, trouble, code, over)


@pytest.mark.parametrize(
    ("phase", "text", "completed", "ending", "trouble"),
    [
        (Phase.MAIL, "421 bye", True, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.MAIL, "421 bye", False, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.RCPT, "421 bye", True, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.DATA, "421 bye", True, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.BODY, "421 bye", True, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.RCPT, "421 4.4.5 session limit", True, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.DATA, "451 4.4.5 session limit", True, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.MAIL, "451 4.4.5 session limit", False, Ending.TEMPORARY, Trouble.NONE),
        (Phase.BODY, "421 4.4.5 session limit", True, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.MAIL, "503 nested", True, Ending.TEMPORARY, Trouble.NONE),
        (Phase.MAIL, "354 what", True, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.DATA, "250 what", True, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.BODY, "354 what", True, Ending.UNKNOWN, Trouble.CONNECTION),
    ],
)
def test_replies_that_end_the_session(
    phase: Phase, text: str, *, completed: bool, ending: Ending, trouble: Trouble
) -> None:
    verdict = judge(phase, reply(text), completed=completed)
    assert (verdict.ending, verdict.trouble, verdict.over) == (ending, trouble, True)
    if phase is Phase.RCPT:
        assert names_session(phase, reply(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("250 2.1.5 ok", Answer.ACCEPTED),
        ("251 will forward", Answer.ACCEPTED),
        ("550 5.1.1 no such user", Answer.REFUSED),
        ("553 5.1.3 bad address", Answer.REFUSED),
        ("450 4.2.1 busy", Answer.DEFERRED),
        ("452 4.2.2 full", Answer.DEFERRED),
        ("550 5.2.2 full", Answer.DEFERRED),
        ("552 exceeded", Answer.DEFERRED),
        ("550 5.4.5 daily limit", Answer.DEFERRED),
        ("452 4.5.3 many", Answer.TOO_MANY),
        ("552 5.5.3 many", Answer.TOO_MANY),
        ("552 5.3.4 too big", Answer.REFUSED),
    ],
)
def test_answer_to_one_recipient(text: str, expected: Answer) -> None:
    assert answer(reply(text)) is expected
    assert not names_session(Phase.RCPT, reply(text))


@given(st.sampled_from([Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.BODY]), st.integers(200, 599), st.booleans())
def test_no_reply_but_a_final_2yz_can_ever_call_a_message_sent(phase: Phase, code: int, completed: bool) -> None:  # noqa: FBT001
    verdict = judge(phase, Reply(code, [b"x"]), completed=completed)
    assert verdict.ending is not Ending.ACCEPTED
    assert verdict.ending is not Ending.UNKNOWN or phase is Phase.BODY


# Judging losses

HUNG_UP = Loss("closed", "network", hung_up=True)
SILENT = Loss("silent", "timeout")
OURS = Loss("cut", "network", ours=True)


@pytest.mark.parametrize(
    ("phase", "loss", "completed", "dot", "behind", "ending", "trouble"),
    [
        (Phase.MAIL, HUNG_UP, True, False, False, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.MAIL, HUNG_UP, False, False, False, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.MAIL, SILENT, True, False, False, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.RCPT, HUNG_UP, True, False, False, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.DATA, HUNG_UP, True, False, False, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.BODY, HUNG_UP, True, True, False, Ending.UNKNOWN, Trouble.CONNECTION),
        (Phase.BODY, SILENT, False, True, False, Ending.UNKNOWN, Trouble.CONNECTION),
        (Phase.BODY, HUNG_UP, True, False, False, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.MAIL, HUNG_UP, True, False, True, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.MAIL, SILENT, False, False, True, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.RCPT, OURS, False, False, False, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.BODY, OURS, False, False, False, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.BODY, OURS, False, True, False, Ending.UNKNOWN, Trouble.NONE),
    ],
)
def test_where_a_connection_was_lost_decides(
    phase: Phase, loss: Loss, *, completed: bool, dot: bool, behind: bool, ending: Ending, trouble: Trouble
) -> None:
    verdict = judge_loss(phase, loss, completed=completed, dot_written=dot, behind=behind)
    assert (verdict.ending, verdict.trouble, verdict.over) == (ending, trouble, True)
    assert verdict.error_code == ("unknown_outcome" if ending is Ending.UNKNOWN else loss.error_code)


@pytest.mark.parametrize("character", ["\u061c", "\u00ad", "\u180e", "\ufff9", "\U000e0041", "\ufffe", "\ue000"])
def test_no_unprintable_character_survives(character: str) -> None:
    assert clean(f"550 a{character}b").isprintable()
