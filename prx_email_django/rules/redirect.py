"""``REDIRECT_TO``: on a staging system, messages go to other addresses than those that they name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from prx_email_django.rules.outcomes import Answer, RecipientOutcome

#: Best first: a replaced recipient takes the best answer of the addresses that replaced it.
_BEST_FIRST = (
    Answer.ACCEPTED,
    Answer.UNKNOWN,
    Answer.TOO_MANY,
    Answer.DEFERRED,
    Answer.OPEN,
    Answer.REFUSED,
)


@dataclass(slots=True)  # not frozen: that made it three times as dear, and each message has one
class Route:
    """The addresses of the envelope, and the recipients of the message that they stand for."""

    envelope: tuple[str, ...]
    #: Recipients of the message that are in the envelope.
    through: tuple[str, ...] = ()
    #: Recipients that ``REDIRECT_TO`` replaces; they are named in ``X-Original-To``.
    replaced: tuple[str, ...] = ()
    #: The addresses that replace them.
    stand_ins: tuple[str, ...] = ()

    def results(self, answers: Mapping[str, RecipientOutcome]) -> Mapping[str, RecipientOutcome]:
        """The answers to the message's recipients, from those to the envelope's addresses."""
        if not self.replaced:
            return answers
        through = set(self.through)
        passed = {address: outcome for address, outcome in answers.items() if address in through}
        stood_in = [answers[address] for address in self.stand_ins if address in answers]
        if stood_in:
            best = min(stood_in, key=lambda outcome: _BEST_FIRST.index(outcome.answer))
            passed.update(dict.fromkeys(self.replaced, best))
        return passed


def named(replaced: Sequence[str], *, limit: int) -> str:
    """The replaced addresses for a header of at most ``limit`` characters; the number of those that have no place."""
    names: list[str] = []
    room = limit - len(f"and {len(replaced)} more")
    for address in replaced:
        room -= len(address) + 2
        if room < 0:
            names.append(f"and {len(replaced) - len(names)} more")
            break
        names.append(address)
    return ", ".join(names)


def direct_route(addresses: Sequence[str]) -> Route:
    """The envelope for ``addresses`` without ``REDIRECT_TO``: each once."""
    unique = tuple(addresses if len(addresses) == 1 else dict.fromkeys(addresses))
    return Route(unique, unique)


def route(addresses: Sequence[str], *, redirect_to: Sequence[str] = (), passing: Iterable[str] = ()) -> Route:
    """The envelope for ``addresses``: each once; those that match no ``passing`` pattern (``fnmatch``) are replaced."""
    if not redirect_to:
        return direct_route(addresses)
    unique = tuple(dict.fromkeys(addresses))
    patterns = [pattern.lower() for pattern in passing]
    through = [address for address in unique if any(fnmatchcase(address.lower(), pattern) for pattern in patterns)]
    passed = set(through)
    replaced = tuple(address for address in unique if address not in passed)
    if not replaced:
        return Route(unique, unique)
    return Route(tuple(dict.fromkeys([*through, *redirect_to])), tuple(through), replaced, tuple(redirect_to))
