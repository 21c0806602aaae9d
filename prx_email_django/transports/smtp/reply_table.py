"""What the known negative SMTP replies are about, with the servers that send them.  Pure.

No rule matches a plain ``451``: the first digit says what it means, and ``reply_rules`` what follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from prx_email_django.rules.outcomes import Phase
from prx_email_django.transports.smtp.replies import Reply


class ReplyMeaning(Enum):
    """What a negative reply (4yz, 5yz) is about."""

    #: This session may send no more messages; a new one may.
    SESSION_LIMIT = "session_limit"
    #: The account is not authenticated, or no longer.
    NOT_AUTHENTICATED = "not_authenticated"
    #: At RCPT, in words: a demand for a login; in a session that is logged in, the refusal of one recipient.
    LOGIN_DEMANDED = "login_demanded"
    #: The account may send no more messages for some time.
    QUOTA = "quota"
    #: The account sends too fast: it waits for some seconds, and no message is judged.
    RATE = "rate"
    #: The account has too many connections at once: this connection ends, and no message is judged.
    CROWDED = "crowded"
    #: Temporary, although the code may be 5yz.
    TEMPORARY = "temporary"
    #: Too many recipients in this transaction.
    TOO_MANY_RECIPIENTS = "too_many_recipients"
    #: The server did not expect this command now: a fault of the session, not of the message.
    BAD_SEQUENCE = "bad_sequence"
    #: The message or the recipient: temporary where the code is 4yz, permanent where it is 5yz.
    FIRST_DIGIT = "first_digit"


@dataclass(frozen=True, slots=True)
class ReplyRule:
    """A negative reply in one of ``phases``, with one of ``codes``, one of ``enhanced`` and ``words``, means this.

    Empty ``codes`` or ``enhanced`` and ``words`` None: any.
    """

    meaning: ReplyMeaning
    phases: frozenset[Phase]
    codes: frozenset[int] = frozenset()
    enhanced: frozenset[str] = frozenset()
    words: re.Pattern[str] | None = None

    def matches(self, phase: Phase, reply: Reply) -> bool:
        """Whether the rule applies to this reply."""
        return (
            phase in self.phases
            and (not self.codes or reply.code in self.codes)
            and (not self.enhanced or reply.enhanced in self.enhanced)
            and (self.words is None or self.words.search(reply.text) is not None)
        )


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


#: Words about the age or the idleness of the connection.
_SESSION_OVER = (
    r"(session|connection)\b.{0,40}\b(lifetime|expired|too long|time ?limit|timed? ?out|time-?out)"
    r"|maximum (session|connection)|(lifetime|time ?limit|timeout) (of|for) (the|this) (session|connection)"
    r"|timeout exceeded|idle (too long|time)"
)
#: "Too many messages in this session", "451 reached the maximum of messages per connection", "421 Maximum transactions
#: per connection reached", "451 Maximum number of transactions exceeded", NetEase "451 MI:DMC".
_SESSION_FULL = (
    r"too many (messages|mails|emails|transactions).*(session|connection)"
    r"|\b(messages?|e?mails?|transactions?) (limit )?(per|in|for|on|over) "
    r"(this |the |a |one |each |single |your |smtp )*(session|connection)"
    r"|(session|connection) (message|mail|transaction) limit"
    r"|(session|connection) has sent too many|number of transactions\b.*(exceeded|reached)|\bMI:DMC\b"
)
#: The codes under which a server says that it is asked for too much at once.
_THROTTLING = frozenset({421, 432, 450, 451, 452, 454})
_MAIL, _RCPT, _DATA = frozenset({Phase.MAIL}), frozenset({Phase.RCPT}), frozenset({Phase.DATA})
_ALL = frozenset({Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.BODY})
_COMMANDS = _ALL - {Phase.BODY}

#: "550 authentication required", "554 5.7.1 SMTP AUTH is required", qmail "503 AUTH first", "you must log in first".
#: Not what speaks of SPF, DKIM and DMARC, nor Exchange 5.7.133 "SenderNotAuthenticatedForGroup": those are about a
#: message or a recipient.
_DEMANDS_LOGIN = _words(
    r"^(?!.*(\b(spf|dkim|dmarc)\b|for ?group))"
    r".*(\b(auth(entication|orization|orisation)?|log-?[io]n)\b( is| was)? (required|needed|first)"
    r"|\b(not|must|please|have to|need to|requires?|without|before) (be |first |yet |to |sending )*"
    r"(auth\b|authenticat|authori[sz]ed\b.*\bsend mail|log(ged)?[ -]?in\b)"
    r"|\bunauthenticated (sender|client|user|connection|session))"
)
#: The first rule that matches decides.  Each names the servers and replies that it was made for.
REPLY_RULES: tuple[ReplyRule, ...] = (
    # RFC 5321 §4.5.3.1.10; Gmail and Exchange 452 4.5.3, Postfix 452 4.5.3, others 552 5.5.3.
    ReplyRule(ReplyMeaning.TOO_MANY_RECIPIENTS, _RCPT, frozenset({452, 552}), frozenset({"4.5.3", "5.5.3"})),
    ReplyRule(ReplyMeaning.TOO_MANY_RECIPIENTS, _RCPT, frozenset({452, 552}), words=_words("too many recipients")),
    # Others "550 Too many recipients", under the code of a refused recipient; not what an hour or a day allows.
    ReplyRule(ReplyMeaning.TOO_MANY_RECIPIENTS, _RCPT, enhanced=frozenset({"5.5.3"})),
    ReplyRule(
        ReplyMeaning.TOO_MANY_RECIPIENTS,
        _RCPT,
        frozenset({550, 554}),
        words=_words(r"too many recipients(?!.*\b(seconds?|minutes?|hour|day|today|month|last)\b)"),
    ),
    # A full mailbox of a recipient may have room tomorrow (RFC 3463 §3.3: "persistent transient failure").
    # So may one that has received too many messages within an hour (Exchange Online 5.2.121, 5.2.122).
    ReplyRule(ReplyMeaning.TEMPORARY, _ALL, enhanced=frozenset({"4.2.2", "5.2.2", "5.2.121", "5.2.122"})),
    # A message too large for this recipient stays too large; any other 552 at RCPT is the "too many recipients" of
    # RFC 821.
    ReplyRule(ReplyMeaning.FIRST_DIGIT, _RCPT, frozenset({552}), frozenset({"5.3.4", "5.2.3"})),
    ReplyRule(ReplyMeaning.TEMPORARY, _RCPT, frozenset({552})),
    # Exchange Online 5.7.30 (basic authentication switched off), 5.7.57 (not authenticated), 5.7.139 (disabled).
    ReplyRule(ReplyMeaning.NOT_AUTHENTICATED, _ALL, frozenset({530, 535, 538})),
    ReplyRule(ReplyMeaning.NOT_AUTHENTICATED, _ALL, enhanced=frozenset({"5.7.30", "5.7.57", "5.7.139"})),
    ReplyRule(ReplyMeaning.NOT_AUTHENTICATED, _MAIL | _DATA, words=_DEMANDS_LOGIN),
    ReplyRule(ReplyMeaning.LOGIN_DEMANDED, _RCPT, words=_DEMANDS_LOGIN),
    # Exchange Online "554 5.2.252 SendAsDenied; …": the From address is not the account's to use.
    ReplyRule(ReplyMeaning.FIRST_DIGIT, _ALL, words=_words(r"\bSendAsDenied")),
    # Gmail 5.4.5; Exchange 5.7.233 (tenant), 5.1.90 (recipients a day), 5.2.251-255 (continuous errors).
    ReplyRule(ReplyMeaning.QUOTA, _ALL, enhanced=frozenset({"5.4.5", "5.7.233", "5.1.90"})),
    ReplyRule(ReplyMeaning.QUOTA, _ALL, enhanced=frozenset(f"5.2.{last}" for last in range(251, 256))),
    # Exchange Online "550 5.7.705 Access denied, tenant has exceeded threshold", "550 5.1.8 Access denied, bad outbound
    # sender": the tenant or the mailbox is blocked until its administrator acts; no message is at fault.
    ReplyRule(ReplyMeaning.QUOTA, _ALL, enhanced=frozenset({"5.7.705"})),
    ReplyRule(ReplyMeaning.QUOTA, _ALL, words=_words("tenant has exceeded threshold|bad outbound sender")),
    # Exchange Online "451 4.7.500 Server busy. Please try again later from [192.0.2.1]": it slows down this machine.
    ReplyRule(ReplyMeaning.RATE, _ALL, _THROTTLING, frozenset({"4.7.500"})),
    # Sendmail "452 4.4.5 Insufficient disk space": every session gets it.
    ReplyRule(ReplyMeaning.FIRST_DIGIT, _ALL, enhanced=frozenset({"4.4.5"}), words=_words("disk space")),
    # "Too many messages in this session" ends the session, whatever rate it names; also after the body: a session that
    # is full says nothing about the message, as one that took too long may.
    ReplyRule(ReplyMeaning.SESSION_LIMIT, _ALL, words=_words(_SESSION_FULL)),
    # Exchange "432 4.3.2 Concurrent connections limit exceeded", "… sender thread limit exceeded", Postfix "421 4.7.0
    # too many connections from …", SES "421 Too many concurrent SMTP connections".
    ReplyRule(
        ReplyMeaning.CROWDED,
        _ALL,
        _THROTTLING,
        words=_words(
            r"concurren(t|cy)|\bHL:ICC\b|thread limit"
            r"|(too many|simultaneous|parallel) (\w+ ){0,3}(connections|sessions)"
            r"|connections? (limit|rate)|(limit|number|maximum) (of|on) (\w+ ){0,3}(connections|sessions)"
        ),
    ),
    # A mailbox that receives too fast (Gmail 450 4.2.1) is a recipient's trouble, and a daily limit is a quota.
    ReplyRule(
        ReplyMeaning.RATE,
        _ALL,
        _THROTTLING,
        words=_words(
            r"^(?!.*(receiving|\bdaily\b|hourly|monthly|today|last hour|per (day|hour)|quota|smtp relay))"
            r".*(throttl|\brate(limit\b|\b.{0,30}(limit|exceed|reached))|\bHL:IFC\b|(exceed|reach|maximum|allowed).{0,30}\brate\b"
            r"|too (fast|quickly)|slow (it |your sending )?down|too much mail|too many (mails|emails|commands|requests)"
            r"|sen(ding|t) too many messages|too many messages sent"
            r"|per (second|minute))"
        ),
    ),
    # Gmail 421/451 4.4.5 "try again later"; other servers say by the same code what the words above catch.
    ReplyRule(ReplyMeaning.SESSION_LIMIT, _COMMANDS, enhanced=frozenset({"4.4.5"})),
    # "Daily user sending limit exceeded", "Peak SMTP relay limit exceeded", SES "Throttling failure: …",
    # Exchange "554 5.2.0 … SubmissionQuotaExceededException", IONOS and GMX "450 … Mail send limit exceeded", iCloud
    # "554 5.7.0 … The limit on the number of allowed outgoing messages was exceeded", SendGrid "451 Authentication
    # failed: Maximum credits exceeded" and "451 You have exceeded your messaging limits", Yahoo "… exceeded the maximum
    # number of emails you can send in 24 hours", Postmark "… has no credits", policy servers of Japanese hosts "550 Too
    # many mails in a short period" and "450 4.4.2 Mail limit exceeded (100 mails/15min)", QQ "550 Sender frequency
    # limited", NetEase "451 MI:SFQ" (messages in 15 minutes) and "451 RP:QRC" (recipients).
    ReplyRule(
        ReplyMeaning.QUOTA,
        _ALL,
        words=_words(
            r"(send(ing|er)?|outgoing|outbound|relay|policyd) (limit|quota|rate)|smtp relay (sending )?limit"
            r"|throttling failure"
            r"|(daily|hourly|monthly) ((user|smtp|message|e?mail|recipient|relay|sending|outgoing|api) )*(limit|quota)"
            r"|submission ?quota|limit on the number of (\w+ )?outgoing|credits? exceeded"
            r"|exceeded your (messaging|message|mail|email|monthly) (limits?|quota|credits)"
            r"|\b(no|out of|not enough|insufficient) (\w+ )?credits?\b"
            r"|number of (e-?mails|messages) (\w+ ){0,4}(in|within|per) (\d+ hours|a day|one day|24h)"
            r"|^(?!.*(receiv|for (this|the) (recipient|mailbox|user))).*("
            r"(too many (e?mails|messages)|number of (e?mails|messages) sent)\b"
            r" (\w+ ){0,6}(in|within|today)\b(?!.*\b(session|connection)\b)"
            r"|\b(e?mail|message) limit (is |was |has been )?(exceeded|reached)"
            r"|\bsender\b.{0,40}\b(rate (over)?limit|over quota))"
            r"|\b(connection|ip|domain|sender|mailbox) frequency limited|\bMI:SFQ\b|\bRP:QRC\b"
        ),
    ),
    # cPanel "550 Domain … has exceeded the max emails per hour", "… max defers and failures per hour", Mailgun "420
    # Domain … has exceeded its limit of 100 messages/hour", Outlook.com "421 RP-001 … how many messages can be sent per
    # hour".  Not what a recipient's mailbox takes; "Recipient address rejected" stands before every word of a policy
    # server that Postfix asks.
    ReplyRule(
        ReplyMeaning.QUOTA,
        _ALL,
        words=_words(
            r"^(?!.*(receiv|recipient(?! (address rejected|limit exceeded))|mailbox))"
            r".*\b(messages?|e?mails?|defers and failures)\b.{0,20}?(/|\b(per|an|each|every)) ?(hour|day|month)\b"
        ),
    ),
    # Yahoo and others in words.
    ReplyRule(ReplyMeaning.SESSION_LIMIT, _COMMANDS - _RCPT, words=_words("too many messages")),
    ReplyRule(ReplyMeaning.SESSION_LIMIT, _RCPT, words=_words("too many messages.*(session|connection)")),
    # RFC 3463 §3.5, X.4.2 "bad connection": Gmail "451 4.4.2 Timeout - closing connection", Postfix "421 4.4.2 Error:
    # timeout exceeded", Exchange "421 4.4.2 Connection dropped"; "421 session maximum lifetime reached" of others.  At
    # RCPT a 451 may speak of the connection to the recipient's server: there the words must name ours, or the code.
    ReplyRule(ReplyMeaning.SESSION_LIMIT, _COMMANDS - _RCPT, frozenset({421, 451}), frozenset({"4.4.2"})),
    ReplyRule(ReplyMeaning.SESSION_LIMIT, _RCPT, frozenset({421}), frozenset({"4.4.2"})),
    ReplyRule(ReplyMeaning.SESSION_LIMIT, _COMMANDS, frozenset({421, 451}), words=_words(_SESSION_OVER)),
    # "503 nested MAIL"; Postfix "554 5.5.0 SMTP protocol synchronization", Exim "SMTP synchronization error".
    ReplyRule(ReplyMeaning.BAD_SEQUENCE, frozenset({Phase.MAIL, Phase.DATA}), frozenset({503})),
    ReplyRule(
        ReplyMeaning.BAD_SEQUENCE,
        _ALL,
        words=_words("synchroni[sz]ation|improper (use of )?(smtp )?(command )?pipelining"),
    ),
)


def meaning_of(phase: Phase, reply: Reply) -> ReplyMeaning:
    """Return what a negative reply in this phase is about."""
    if reply.code < 400:
        return ReplyMeaning.FIRST_DIGIT
    matching = (rule.meaning for rule in REPLY_RULES if rule.matches(phase, reply))
    return next(matching, ReplyMeaning.FIRST_DIGIT)
