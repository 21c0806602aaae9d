"""Refusals in a row: when they say something about the account, and how unlike two messages are.  Pure.

A suspended account is refused in words that no list knows, at any phase, with 4yz or 5yz.  What gives it away is that
the same words come for one message after another.  A refusal that speaks of its recipient says nothing of the account.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from prx_email_django.rules.outcomes import Answer, Ending, Outcome, Phase, Trouble

#: A list of dead addresses at one or two domains is no trouble of the account, where the reply has no enhanced code.
DOMAINS = 3
#: Subjects that share this part of the shorter one's words are alike: "Welcome, Ann" and "Welcome, Bob".
ALIKE = 0.5

#: Characters of a masked text that are compared: a long address before them moves the place where the text was cut.
COMPARED = 80
#: Characters of a text that are masked: a subject may be long, and each of its words may begin a host name.
MASKED = 500

_PHASES = frozenset({Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.BODY})
#: Addresses and host names, then every word that holds a digit: queue ids, times, addresses of hosts.
_NAMES = re.compile(r"<[^<>]*>|\S+@\S+|\b[\w-]+(?:\.[\w-]+)+\b")
_DIGITS = re.compile(r"[\w.:+-]*\d[\w.:+-]*")
#: RFC 3463 §3.2 and §3.3: the address of the recipient, and the mailbox behind it.
_OF_RECIPIENT = re.compile(r"[45]\.(1\.(1|2|3|6|10)|2\.\d+)")
#: The same in words, for replies to RCPT without an enhanced code.
_WORDS_OF_RECIPIENT = re.compile(
    r"(no such|unknown|invalid|bad) (\w+ )?(user|recipient|mailbox|local part)"
    r"|(user|recipient|mailbox)\b.{0,60}(unknown|not found|doe?s(n.t| not) exist|invalid|is full|not exist)"
    r"|over quota|mailbox full",
    re.IGNORECASE,
)
#: After the body, words about the sender or the account under a code of mailboxes: Exchange Online says "554 5.2.0
#: STOREDRV.Submission.Exception:OutboundSpamException" to each message of an account that it has blocked.
_WORDS_OF_SENDER = re.compile(
    r"\bsubmission\b|\b(outbound|outgoing|sender)|\b(your|this|the sending) account\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused message: ``key`` is the same for refusals with the same code, enhanced code and masked text."""

    key: str
    #: The domains of the refused recipients, where only many of them say something about the account; else empty.
    domains: frozenset[str] = frozenset()
    is_bare: bool = False


def masked(text: str) -> str:
    """The text in lower case without what differs from message to message: addresses, host names, words with digits."""
    return " ".join(_DIGITS.sub("#", _NAMES.sub("@", text[:MASKED].lower())).split())


def domain_of(address: str) -> str:
    """The part of an address behind the ``@``, in lower case."""
    return address.strip().rstrip(">").rpartition("@")[2].lower()


def speaks_of_recipient(phase: str, enhanced: str, text: str) -> bool:
    """Whether a refusal is about a recipient, by its enhanced code, or at RCPT by its words where it has none.

    At MAIL the server knows no recipient yet: a mailbox that is disabled there is the account's own.
    """
    if phase == Phase.MAIL:
        return False
    if enhanced:
        of_mailbox = _OF_RECIPIENT.fullmatch(enhanced) is not None
        return of_mailbox and (phase == Phase.RCPT or _WORDS_OF_SENDER.search(text) is None)
    return phase == Phase.RCPT and _WORDS_OF_RECIPIENT.search(text) is not None


def refusal_of(outcome: Outcome) -> Refusal | None:
    """The refusal of a whole message; None: it was not refused, or the reply is about a recipient or judged already."""
    if outcome.ending not in (Ending.TEMPORARY, Ending.PERMANENT) or outcome.trouble is not Trouble.NONE:
        return None
    if outcome.phase not in _PHASES or outcome.smtp_code < 400 or not outcome.mail_written:
        return None
    if speaks_of_recipient(outcome.phase, outcome.enhanced, outcome.error):
        return None
    key = _key(outcome.smtp_code, outcome.enhanced, outcome.error)
    if outcome.phase != Phase.RCPT:
        return Refusal(key)
    if not _all_alike(outcome):
        return None
    is_bare = not outcome.enhanced
    return Refusal(key, frozenset(map(domain_of, outcome.recipients)) if is_bare else frozenset(), is_bare)


def _all_alike(outcome: Outcome) -> bool:
    """Whether every recipient was refused in the same words: else the server tells recipients apart."""
    refused = [said for said in outcome.recipients.values() if said.answer in (Answer.REFUSED, Answer.DEFERRED)]
    return len({_key(said.code, said.enhanced, said.text) for said in refused}) <= 1


def _key(code: int, enhanced: str, text: str) -> str:
    # Some texts begin with the code, and some do not.
    words = masked(text.removeprefix(str(code)).lstrip())[:COMPARED]
    return hashlib.sha256(f"{code} {enhanced} {words}".encode()).hexdigest()


class RefusalRow:
    """The refusals since the last accepted message, counted for each key; ``limit`` 0: nothing is suspicious."""

    __slots__ = ("_counts", "_domains", "forgiven", "limit")

    def __init__(self, limit: int, refusals: Iterable[Refusal] = (), *, forgiven: Collection[str] = ()) -> None:
        self.limit = limit
        #: Keys that raise no suspicion: an unlike message was accepted a short time ago.
        self.forgiven = forgiven
        self._counts: dict[str, int] = {}
        self._domains: dict[str, set[str]] = {}
        for refusal in refusals:
            self.add(refusal)

    def add(self, refusal: Refusal) -> None:
        """Count one refusal more."""
        self._counts[refusal.key] = self._counts.get(refusal.key, 0) + 1
        if refusal.is_bare:
            self._domains.setdefault(refusal.key, set()).update(refusal.domains)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def clear(self) -> None:
        """A message was accepted."""
        if self._counts:
            self._counts, self._domains = {}, {}

    @property
    def longest(self) -> int:
        """How many of one kind, among those that would raise a suspicion."""
        return max((count for key, count in self._counts.items() if self._counts_for(key)), default=0)

    @property
    def room(self) -> int | None:
        """How many more messages may be refused before there is a suspicion; None: any number."""
        longest = self.longest if self._counts and self.limit else 0
        return max(0, self.limit - longest) if longest else None

    def suspicious(self) -> frozenset[str]:
        """The kinds of refusal that came often enough to suspect the account; empty: there is no suspicion."""
        if not self.limit:
            return frozenset()
        return frozenset(key for key, count in self._counts.items() if count >= self.limit and self._counts_for(key))

    def counting(self) -> frozenset[str]:
        """The kinds of refusal that may be the account's trouble."""
        return frozenset(key for key in self._counts if self._counts_for(key))

    @property
    def total(self) -> int:
        """How many messages were refused, without those that speak of dead addresses at a few domains."""
        return sum(count for key, count in self._counts.items() if self._is_of_many(key))

    def _counts_for(self, key: str) -> bool:
        return key not in self.forgiven and self._is_of_many(key)

    def _is_of_many(self, key: str) -> bool:
        domains = self._domains.get(key)
        return domains is None or len(domains) >= DOMAINS


# How unlike messages are


@dataclass(frozen=True, slots=True)
class Traits:
    """What may make a server refuse one message and accept another."""

    tag: str
    sender: str
    domains: frozenset[str]
    subject: frozenset[str]

    @classmethod
    def of(cls, *, tag: str, sender: str, recipients: Iterable[str], subject: str) -> Traits:
        """The traits of a message; the words of the subject are masked."""
        return cls(
            tag=tag,
            sender=sender.strip().lower(),
            domains=frozenset(map(domain_of, recipients)),
            subject=frozenset(masked(subject).split()),
        )


def unlikeness(message: Traits, refused: Collection[Traits]) -> int:
    """How unlike the message is to all of the refused ones: 0, nothing tells it apart, to 11.

    Tag and sender weigh more than the subject, the subject more than the recipient's domain: a newsletter has one tag,
    one sender and one subject, and goes to all domains.
    """
    return (
        4 * all(message.tag != other.tag for other in refused)
        + 4 * all(message.sender != other.sender for other in refused)
        + 2 * all(not _alike(message.subject, other.subject) for other in refused)
        + all(not message.domains & other.domains for other in refused)
    )


#: Unlike enough to be a probe although the account is paused: another domain alone is not.
UNLIKE_IN_KIND = 2


def _alike(some: frozenset[str], other: frozenset[str]) -> bool:
    shorter = min(len(some), len(other))
    return len(some & other) / shorter >= ALIKE if shorter else some == other
