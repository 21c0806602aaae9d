"""What replies and lost connections mean: tables of the replies of known servers, and properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.rules.outcomes import Answer, Ending, Phase, Trouble
from prx_email_django.transports.smtp.replies import Reply
from prx_email_django.transports.smtp.reply_rules import (
    Loss,
    is_about_session,
    judge_loss,
    judge_reply,
    recipient_answer,
)
from prx_email_django.transports.smtp.reply_table import REPLY_RULES, ReplyMeaning, meaning_of
from tests.support.outgoing_messages import parse_reply

# Replies


@pytest.mark.parametrize(
    ("phase", "text", "meaning"),
    [
        (Phase.RCPT, "452 4.5.3 too many recipients", ReplyMeaning.TOO_MANY_RECIPIENTS),
        (Phase.RCPT, "552 5.5.3 too many recipients", ReplyMeaning.TOO_MANY_RECIPIENTS),
        (Phase.RCPT, "452 Too many recipients received this hour", ReplyMeaning.TOO_MANY_RECIPIENTS),
        (Phase.RCPT, "452 4.2.2 mailbox full", ReplyMeaning.TEMPORARY),
        (Phase.RCPT, "552 5.2.2 over quota", ReplyMeaning.TEMPORARY),
        (Phase.BODY, "552 5.2.2 over quota", ReplyMeaning.TEMPORARY),
        (Phase.RCPT, "552 storage allocation exceeded", ReplyMeaning.TEMPORARY),
        (Phase.RCPT, "552 5.3.4 message too big", ReplyMeaning.FIRST_DIGIT),
        (Phase.MAIL, "552 5.3.4 message too big", ReplyMeaning.FIRST_DIGIT),
        (Phase.MAIL, "530 5.7.0 Authentication required", ReplyMeaning.NOT_AUTHENTICATED),
        (Phase.MAIL, "530 5.7.57 Client not authenticated to send mail", ReplyMeaning.NOT_AUTHENTICATED),
        (Phase.MAIL, "550 5.7.30 Basic authentication is not supported", ReplyMeaning.NOT_AUTHENTICATED),
        (Phase.MAIL, "550 authentication is required for relay", ReplyMeaning.NOT_AUTHENTICATED),
        (Phase.RCPT, "550 5.7.1 relaying denied, authentication required", ReplyMeaning.LOGIN_DEMANDED),
        (Phase.BODY, "550 5.7.26 unauthenticated email from x is not accepted", ReplyMeaning.FIRST_DIGIT),
        (Phase.BODY, "550 5.4.5 Daily user sending limit exceeded. For more", ReplyMeaning.QUOTA),
        (Phase.RCPT, "550 5.7.1 Daily SMTP relay limit exceeded for customer", ReplyMeaning.QUOTA),
        (Phase.RCPT, "450 4.2.1 Peak SMTP relay limit exceeded for customer", ReplyMeaning.QUOTA),
        (
            Phase.RCPT,
            "450 4.2.1 The user you are trying to contact is receiving mail too quickly",
            ReplyMeaning.FIRST_DIGIT,
        ),
        (Phase.BODY, "550 5.7.233 tenant exceeded external recipient rate limit", ReplyMeaning.QUOTA),
        (Phase.BODY, "550 5.2.254 continuous errors", ReplyMeaning.QUOTA),
        (Phase.BODY, "550 5.7.705 Access denied, tenant has exceeded threshold", ReplyMeaning.QUOTA),
        (Phase.MAIL, "554 Access denied, tenant has exceeded threshold", ReplyMeaning.QUOTA),
        (Phase.BODY, "550 5.1.8 Access denied, bad outbound sender AS(42004)", ReplyMeaning.QUOTA),
        (Phase.MAIL, "550 5.1.8 <a@x>: Sender address rejected: Domain not found", ReplyMeaning.FIRST_DIGIT),
        (Phase.MAIL, "451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77719)", ReplyMeaning.RATE),
        (Phase.RCPT, "451 4.7.500 Server busy. Please try again later from [192.0.2.1].", ReplyMeaning.RATE),
        (Phase.RCPT, "451 4.7.1 Server busy", ReplyMeaning.FIRST_DIGIT),
        (Phase.BODY, "550 5.2.256 something else", ReplyMeaning.FIRST_DIGIT),
        (Phase.BODY, "454 Throttling failure: Maximum sending rate exceeded.", ReplyMeaning.RATE),
        (Phase.MAIL, "454 4.7.0 Throttling", ReplyMeaning.RATE),
        (Phase.MAIL, "450 4.7.1 Error: too much mail from 192.0.2.1", ReplyMeaning.RATE),
        (Phase.MAIL, "421 4.3.2 You are sending too fast, slow down", ReplyMeaning.RATE),
        (Phase.BODY, "451 4.3.2 Message rate limit exceeded", ReplyMeaning.RATE),
        (Phase.BODY, "454 Throttling failure: Daily message quota exceeded.", ReplyMeaning.QUOTA),
        (Phase.RCPT, "450 4.2.1 Peak SMTP relay limit exceeded", ReplyMeaning.QUOTA),
        (Phase.RCPT, "450 4.2.1 The user is receiving mail at a rate that is too fast", ReplyMeaning.FIRST_DIGIT),
        (Phase.MAIL, "421 4.7.28 unusual rate of unsolicited mail", ReplyMeaning.FIRST_DIGIT),
        (Phase.BODY, "554 5.7.1 rate limit exceeded", ReplyMeaning.FIRST_DIGIT),
        (Phase.BODY, "432 4.3.2 Concurrent connections limit exceeded", ReplyMeaning.CROWDED),
        (Phase.BODY, "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", ReplyMeaning.CROWDED),
        (Phase.MAIL, "421 Too many concurrent SMTP connections; please try again later", ReplyMeaning.CROWDED),
        (Phase.MAIL, "421 4.7.0 Error: too many connections from 192.0.2.1", ReplyMeaning.CROWDED),
        (Phase.MAIL, "421 4.3.2 Service not active", ReplyMeaning.FIRST_DIGIT),
        (Phase.MAIL, "503 AUTH first (#5.5.1)", ReplyMeaning.NOT_AUTHENTICATED),
        (Phase.MAIL, "554 5.7.0 Must authenticate before sending", ReplyMeaning.NOT_AUTHENTICATED),
        (Phase.RCPT, "550 Please log in first", ReplyMeaning.LOGIN_DEMANDED),
        (Phase.RCPT, "550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup", ReplyMeaning.FIRST_DIGIT),
        (Phase.RCPT, "550 5.7.26 the sender must authenticate with SPF or DKIM", ReplyMeaning.FIRST_DIGIT),
        (
            Phase.BODY,
            "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process message due "
            "to a permanent exception with message The message can't be submitted because the sender's submission "
            "quota was exceeded.",
            ReplyMeaning.QUOTA,
        ),
        (Phase.BODY, "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException", ReplyMeaning.QUOTA),
        (Phase.BODY, "554 5.2.0 STOREDRV.Deliver; delivery result banned", ReplyMeaning.FIRST_DIGIT),
        (Phase.MAIL, "451 4.4.5 try later", ReplyMeaning.SESSION_LIMIT),
        (Phase.MAIL, "421 Too many messages in this session", ReplyMeaning.SESSION_LIMIT),
        (Phase.RCPT, "421 Too many messages in this session", ReplyMeaning.SESSION_LIMIT),
        (Phase.RCPT, "450 4.7.1 too many messages for this recipient", ReplyMeaning.FIRST_DIGIT),
        (Phase.BODY, "451 4.4.5 try later", ReplyMeaning.FIRST_DIGIT),
        (Phase.MAIL, "503 5.5.1 nested MAIL command", ReplyMeaning.BAD_SEQUENCE),
        (Phase.MAIL, "554 5.5.0 SMTP protocol synchronization", ReplyMeaning.BAD_SEQUENCE),
        (Phase.RCPT, "503 5.5.1 MAIL first", ReplyMeaning.FIRST_DIGIT),
        (Phase.MAIL, "250 too many messages, no: fine", ReplyMeaning.FIRST_DIGIT),
        (Phase.MAIL, "550 5.7.60 SendAsDenied", ReplyMeaning.FIRST_DIGIT),
        (
            Phase.BODY,
            "450 Requested mail action not taken: mailbox unavailable. Mail send limit exceeded.",
            ReplyMeaning.QUOTA,
        ),
        (
            Phase.BODY,
            "554 5.7.0 Your message could not be sent. The limit on the number of allowed outgoing messages was met.",
            ReplyMeaning.QUOTA,
        ),
        (Phase.MAIL, "451 Authentication failed: Maximum credits exceeded", ReplyMeaning.QUOTA),
        (Phase.BODY, "550 You have exceeded your daily relay quota", ReplyMeaning.QUOTA),
        (
            Phase.RCPT,
            "550 Domain a.example has exceeded the max emails per hour (101/100 (101%)) allowed.  Message discarded.",
            ReplyMeaning.QUOTA,
        ),
        (
            Phase.BODY,
            "550 a.example has exceeded the max defers and failures per hour (5/5 (100%)) allowed.",
            ReplyMeaning.QUOTA,
        ),
        (Phase.BODY, "420 Domain a.example has exceeded its limit of 100 messages/hour", ReplyMeaning.QUOTA),
        (Phase.MAIL, "451 Too many messages per hour", ReplyMeaning.QUOTA),
        (Phase.RCPT, "450 4.2.1 this user receives too many messages per hour", ReplyMeaning.FIRST_DIGIT),
        (Phase.RCPT, "450 4.7.1 too many messages an hour for this mailbox", ReplyMeaning.FIRST_DIGIT),
        (Phase.BODY, "554 5.7.1 the newsletter of this month was refused as spam", ReplyMeaning.FIRST_DIGIT),
        (Phase.MAIL, "450 4.5.3 Maximum messages per session reached", ReplyMeaning.SESSION_LIMIT),
        (Phase.MAIL, "452 reached the limit of 50 messages in one connection", ReplyMeaning.SESSION_LIMIT),
        (Phase.RCPT, "451 connection message limit reached", ReplyMeaning.SESSION_LIMIT),
        (Phase.BODY, "554 5.2.252 SendAsDenied; a@x not allowed to send as b@x", ReplyMeaning.FIRST_DIGIT),
        (
            Phase.BODY,
            "421 4.4.2 Message submission rate for this client has exceeded the configured limit",
            ReplyMeaning.RATE,
        ),
        (
            Phase.MAIL,
            "421 4.4.2 Message submission rate for this client has exceeded the configured limit",
            ReplyMeaning.RATE,
        ),
        (Phase.MAIL, "450 User is sending too many messages [1]. Try again later", ReplyMeaning.RATE),
        (Phase.MAIL, "421 4.7.0 Too many requests", ReplyMeaning.RATE),
        (Phase.MAIL, "450 4.7.1 a@x: Sender address rejected: Message rate limit exceeded (60/1m)", ReplyMeaning.RATE),
        (Phase.MAIL, "554 5.7.1 a@x: Sender address rejected: Rate limit exceeded 100/hour", ReplyMeaning.QUOTA),
        (Phase.RCPT, "550 Sender rate limit exceeded: 30/min", ReplyMeaning.QUOTA),
        (
            Phase.RCPT,
            "452 4.7.1 b@x: Recipient address rejected: Quota exceeded for sender (200 mails per hour)",
            ReplyMeaning.QUOTA,
        ),
        (
            Phase.BODY,
            "421 Domain x.example is not allowed to send: recipient limit exceeded: 100 free mails per day",
            ReplyMeaning.QUOTA,
        ),
        (Phase.MAIL, "451 You have exceeded your messaging limits", ReplyMeaning.QUOTA),
        (Phase.BODY, "405 Not allowed to send: the account has no credits", ReplyMeaning.QUOTA),
        (
            Phase.BODY,
            "550 5.7.1 You have exceeded the maximum number of emails you can send in 24 hours",
            ReplyMeaning.QUOTA,
        ),
        (Phase.MAIL, "550 5.7.1 Too many mails in short period (over 300 per 15 min)", ReplyMeaning.QUOTA),
        (Phase.MAIL, "450 4.4.2 Mail limit exceeded (100 mails/15min)", ReplyMeaning.QUOTA),
        (Phase.RCPT, "550 5.2.1 too many emails in the last hour for this user", ReplyMeaning.FIRST_DIGIT),
        (Phase.RCPT, "450 4.2.1 mailbox is receiving too many mails in this hour", ReplyMeaning.FIRST_DIGIT),
        (Phase.RCPT, "452 4.2.2 mailbox: mail limit exceeded", ReplyMeaning.TEMPORARY),
        (Phase.RCPT, "421 4.7.0 Maximum transactions per connection reached", ReplyMeaning.SESSION_LIMIT),
        (Phase.MAIL, "421 4.3.2 Too many mails in this session", ReplyMeaning.SESSION_LIMIT),
        (Phase.DATA, "451 session transaction limit", ReplyMeaning.SESSION_LIMIT),
        (Phase.BODY, "421 4.7.0 Too many messages in this session", ReplyMeaning.SESSION_LIMIT),
        (Phase.MAIL, "421 4.4.2 Error: timeout exceeded", ReplyMeaning.SESSION_LIMIT),
        (Phase.BODY, "552 5.3.4 Message size exceeds fixed limit", ReplyMeaning.FIRST_DIGIT),
        (Phase.BODY, "554 5.7.1 earn credits in 24 hours: refused as spam", ReplyMeaning.FIRST_DIGIT),
        (Phase.RCPT, "550 5.5.3 Too many recipients", ReplyMeaning.TOO_MANY_RECIPIENTS),
        (Phase.RCPT, "550 Too many recipients.", ReplyMeaning.TOO_MANY_RECIPIENTS),
        (Phase.RCPT, "550 5.7.1 too many recipients in the last hour", ReplyMeaning.FIRST_DIGIT),
        (
            Phase.BODY,
            "550 5.2.121 The sender's hourly message limit for this recipient is exceeded",
            ReplyMeaning.TEMPORARY,
        ),
        (Phase.RCPT, "550 5.2.122 The recipient's hourly limit", ReplyMeaning.TEMPORARY),
        (Phase.DATA, "550 Unauthenticated senders not allowed", ReplyMeaning.NOT_AUTHENTICATED),
        (Phase.BODY, "550 Unauthenticated senders not allowed", ReplyMeaning.FIRST_DIGIT),
        (Phase.MAIL, "452 4.4.5 Insufficient disk space; try again later", ReplyMeaning.FIRST_DIGIT),
        (Phase.MAIL, "421 4.4.5 Too many connections from your host", ReplyMeaning.CROWDED),
        (Phase.MAIL, "451 4.4.5 Rate limit exceeded, try again later.", ReplyMeaning.RATE),
        (Phase.MAIL, "450 4.7.1 Concurrency limit exceeded", ReplyMeaning.CROWDED),
        (Phase.MAIL, "421 HL:ICC 163 smtp1", ReplyMeaning.CROWDED),
        (Phase.MAIL, "421 HL:IFC 163 smtp1", ReplyMeaning.RATE),
        (Phase.MAIL, "450 MI:DMC smtp2", ReplyMeaning.SESSION_LIMIT),
        (Phase.BODY, "451 MI:SFQ 163 smtp3", ReplyMeaning.QUOTA),
        (Phase.RCPT, "451 RP:QRC smtp4", ReplyMeaning.QUOTA),
        (
            Phase.BODY,
            "550 Domain frequency limited. http://service.mail.qq.com/cgi-bin/help?subtype=1",
            ReplyMeaning.QUOTA,
        ),
        (Phase.MAIL, "550 Connection frequency limited", ReplyMeaning.QUOTA),
        (Phase.BODY, "450 4.2.1 Ratelimit exceeded for mailbox a@mail.ru. Try again later.", ReplyMeaning.RATE),
        (Phase.RCPT, "451 Ratelimit: 100.3 / 1h for a@x", ReplyMeaning.RATE),
        (Phase.RCPT, "550 Sender rate overlimit - 101.0 / 1h / a@x", ReplyMeaning.QUOTA),
        (Phase.BODY, "450 Message limit exceeded for this account. Try again later", ReplyMeaning.QUOTA),
        (Phase.RCPT, "450 4.2.1 message limit exceeded for this mailbox", ReplyMeaning.FIRST_DIGIT),
        (Phase.MAIL, "451 4.7.1 Sender quota exceeded", ReplyMeaning.QUOTA),
        (Phase.BODY, "550 5.7.1 Sender a@x is over quota", ReplyMeaning.QUOTA),
        (Phase.RCPT, "554 5.7.1 <b@y>: Recipient address rejected: Outgoing quota exceeded", ReplyMeaning.QUOTA),
        (Phase.BODY, "550 5.7.1 Relay quota exceeded", ReplyMeaning.QUOTA),
        (
            Phase.MAIL,
            "451 4.7.1 OVH_OUTLIMIT: too many mails sent from this account in the last hour",
            ReplyMeaning.QUOTA,
        ),
        (Phase.MAIL, "550 5.7.1 Too many messages sent by this user in the last hour", ReplyMeaning.QUOTA),
        (Phase.MAIL, "450 4.7.1 Too many mails sent today, try again tomorrow", ReplyMeaning.QUOTA),
        (
            Phase.BODY,
            "550 5.7.1 Number of messages sent by this user in the last 60 minutes exceeded",
            ReplyMeaning.QUOTA,
        ),
        (Phase.RCPT, "550 5.7.1 this user receives too many messages sent in an hour", ReplyMeaning.FIRST_DIGIT),
        (Phase.MAIL, "421 4.7.0 Too many messages sent in this session", ReplyMeaning.SESSION_LIMIT),
        (Phase.MAIL, "450 4.7.1 You've sent too many emails: monthly limit reached", ReplyMeaning.QUOTA),
        (Phase.BODY, "550 MS42225 You have reached your daily API quota limit", ReplyMeaning.QUOTA),
        (Phase.MAIL, "421 4.7.0 Too many messages sent from this account. Please try again later", ReplyMeaning.RATE),
        (Phase.MAIL, "452 4.5.3 Connection has sent too many messages, reconnect", ReplyMeaning.SESSION_LIMIT),
        (Phase.MAIL, "451 4.5.1 Maximum number of transactions exceeded", ReplyMeaning.SESSION_LIMIT),
    ],
)
def test_no_reply_of_a_known_server_is_misunderstood(phase: Phase, text: str, meaning: ReplyMeaning) -> None:
    assert meaning_of(phase, parse_reply(text)) is meaning


def test_no_rule_matches_every_reply_or_a_positive_one() -> None:
    for rule in REPLY_RULES:
        assert rule.codes or rule.enhanced or rule.words
        assert all(code >= 400 for code in rule.codes)


@pytest.mark.parametrize("phase", [Phase.MAIL, Phase.DATA, Phase.BODY])
@pytest.mark.parametrize("completed", [True, False])
@pytest.mark.parametrize(
    ("text", "ending", "trouble", "code", "ends_session"),
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
    phase: Phase, *, completed: bool, text: str, ending: Ending, trouble: Trouble, code: str, ends_session: bool
) -> None:
    verdict = judge_reply(phase, parse_reply(text), completed=completed)
    assert (verdict.ending, verdict.trouble, verdict.error_code) == (ending, trouble, code)
    assert verdict.ends_session is ends_session


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
        (Phase.MAIL, "451 4.4.5 session limit", False, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.BODY, "421 4.4.5 session limit", True, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.MAIL, "503 nested", True, Ending.TEMPORARY, Trouble.NONE),
        (Phase.MAIL, "421 4.4.2 Error: timeout exceeded", True, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.MAIL, "451 4.4.2 Timeout - closing connection", True, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.DATA, "451 4.4.2 Timeout - closing connection", True, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.MAIL, "451 4.4.2 Timeout - closing connection", False, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.RCPT, "421 4.4.2 Connection dropped", True, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.RCPT, "421 session maximum lifetime reached", True, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.DATA, "421 Maximum session time limit, bye", True, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.RCPT, "421 session maximum lifetime reached", False, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.MAIL, "354 what", True, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.DATA, "250 what", True, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.BODY, "354 what", True, Ending.UNKNOWN, Trouble.CONNECTION),
    ],
)
def test_replies_that_end_the_session(
    phase: Phase, text: str, *, completed: bool, ending: Ending, trouble: Trouble
) -> None:
    verdict = judge_reply(phase, parse_reply(text), completed=completed)
    assert (verdict.ending, verdict.trouble, verdict.ends_session) == (ending, trouble, True)
    if phase is Phase.RCPT:
        assert is_about_session(parse_reply(text))


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
    assert recipient_answer(parse_reply(text)) is expected
    assert not is_about_session(parse_reply(text))


@given(st.sampled_from([Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.BODY]), st.integers(200, 599), st.booleans())
def test_no_reply_but_a_final_2yz_can_ever_call_a_message_sent(phase: Phase, code: int, completed: bool) -> None:
    verdict = judge_reply(phase, Reply(code, [b"x"]), completed=completed)
    assert verdict.ending is not Ending.ACCEPTED
    assert verdict.ending is not Ending.UNKNOWN or phase is Phase.BODY


# Lost connections

CLOSED_BY_SERVER = Loss("closed", "network", closed_by_server=True)
TIMED_OUT = Loss("silent", "timeout")
CLOSED_BY_US = Loss("cut", "network", closed_by_us=True)


@pytest.mark.parametrize(
    ("phase", "loss", "completed", "dot", "overlapped", "ending", "trouble"),
    [
        (Phase.MAIL, CLOSED_BY_SERVER, True, False, False, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.MAIL, CLOSED_BY_SERVER, False, False, False, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.MAIL, TIMED_OUT, True, False, False, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.RCPT, CLOSED_BY_SERVER, True, False, False, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.DATA, CLOSED_BY_SERVER, True, False, False, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.BODY, CLOSED_BY_SERVER, True, True, False, Ending.UNKNOWN, Trouble.CONNECTION),
        (Phase.BODY, TIMED_OUT, False, True, False, Ending.UNKNOWN, Trouble.CONNECTION),
        (Phase.BODY, CLOSED_BY_SERVER, True, False, False, Ending.TEMPORARY, Trouble.CONNECTION),
        (Phase.MAIL, CLOSED_BY_SERVER, True, False, True, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.MAIL, TIMED_OUT, False, False, True, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.RCPT, CLOSED_BY_US, False, False, False, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.BODY, CLOSED_BY_US, False, False, False, Ending.UNTOUCHED, Trouble.NONE),
        (Phase.BODY, CLOSED_BY_US, False, True, False, Ending.UNKNOWN, Trouble.NONE),
    ],
)
def test_where_a_connection_was_lost_decides(
    phase: Phase, loss: Loss, *, completed: bool, dot: bool, overlapped: bool, ending: Ending, trouble: Trouble
) -> None:
    verdict = judge_loss(phase, loss, completed=completed, dot_written=dot, overlapped=overlapped)
    assert (verdict.ending, verdict.trouble, verdict.ends_session) == (ending, trouble, True)
    assert verdict.error_code == ("unknown_outcome" if ending is Ending.UNKNOWN else loss.error_code)
