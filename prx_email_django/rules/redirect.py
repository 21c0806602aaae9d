"""``REDIRECT_TO``: on a staging system no message reaches the people that it is addressed to.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from prx_email_django.rules.outcomes import Answer, RecipientOutcome

#: Best first: a redirected recipient takes the best answer of the addresses that stood in for it.
_BEST_FIRST = (
    Answer.ACCEPTED,
    Answer.UNKNOWN,
    Answer.TOO_MANY,
    Answer.DEFERRED,
    Answer.OPEN,
    Answer.REFUSED,
)


@dataclass(frozen=True, slots=True)
class Route:
    """The envelope that goes over the wire, and whom it stands for."""

    envelope: tuple[str, ...]
    #: Real addresses in it.
    through: tuple[str, ...] = ()
    #: Addresses replaced by ``REDIRECT_TO``; they go into ``X-Original-To``.
    replaced: tuple[str, ...] = ()
    #: What they were replaced by.
    stand_ins: tuple[str, ...] = ()

    def results(self, answers: Mapping[str, RecipientOutcome]) -> dict[str, RecipientOutcome]:
        """Answers to envelope addresses -> answers to the real ones."""
        passed = {address: one for address, one in answers.items() if address in self.through}
        stood_in = [answers[address] for address in self.stand_ins if address in answers]
        if stood_in:
            best = min(stood_in, key=lambda one: _BEST_FIRST.index(one.answer))
            passed.update(dict.fromkeys(self.replaced, best))
        return passed


def route(addresses: Sequence[str], *, redirect_to: Sequence[str] = (), passing: Iterable[str] = ()) -> Route:
    """The envelope for ``addresses``: each once, and those that match no ``passing`` pattern replaced."""
    unique = tuple(dict.fromkeys(addresses))
    if not redirect_to:
        return Route(unique, unique)
    patterns = [pattern.lower() for pattern in passing]
    through = [one for one in unique if any(fnmatchcase(one.lower(), pattern) for pattern in patterns)]
    replaced = tuple(one for one in unique if one not in through)
    if not replaced:
        return Route(unique, unique)
    return Route(tuple(dict.fromkeys([*through, *redirect_to])), tuple(through), replaced, tuple(redirect_to))
