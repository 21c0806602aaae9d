"""Advice for logins that providers refuse, and for messages that they put off.

Sources: RFC 4954 §6 (432, 534), RFC 6647 (greylisting); support.google.com/mail/answer/185833 and /78775 (534 5.7.9,
535 5.7.8), learn.microsoft.com/exchange/clients-and-mobile-in-exchange-online/authenticated-client-smtp-submission
(535 5.7.139), and for the rest the page that the preset names.
"""

from __future__ import annotations

import re

from django.utils.translation import gettext_lazy

from prx_email_django.models.presets import preset_of

#: Patterns in the words of servers, each with advice.  The first that fits is shown.
LOGIN_ADVICE = (
    (
        r"password (has |is )?expired|expired password|\b432 4\.7\.12\b|password transition",
        gettext_lazy(
            "The password of the mailbox has expired: set a new one at the provider, and enter it here. An app "
            "password or OAuth does not expire with it at most providers."
        ),
    ),
    (
        "security defaults|did not meet the criteria to be authenticated",
        gettext_lazy(
            "A rule of the organization (security defaults, conditional access) forbids a login by password: sign in "
            "with OAuth, or its administrator must exempt this mailbox."
        ),
    ),
    (
        r"5\.7\.139|5\.7\.30\b|SmtpClientAuthentication|basic authentication (is|has been) (disabled|not supported)",
        gettext_lazy(
            "SMTP AUTH is switched off for this mailbox or its whole organization: its administrator must allow it, or "
            "the account signs in with OAuth."
        ),
    ),
    (
        "credentials for relay|relay(ing)? (access )?(is )?(denied|not (allowed|permitted))|unable to relay",
        gettext_lazy(
            "The server does not pass on mail from this machine: log in, or have its administrator allow the address "
            "of this machine, and check the domain of the sender."
        ),
    ),
    (
        r"\b534\b|5\.7\.9\b|application.specific password|app(lication)? password|WebLoginRequired",
        gettext_lazy("The provider wants an app password: make one in the settings of the mailbox, and enter it here."),
    ),
)

#: A server put a message off; asked last, since a text that also speaks of limits is about these.
LATER_ADVICE = (
    (
        r"gr[ea]y-?list|^45[01]\b",
        gettext_lazy(
            "The server asks to come back later, as many do when they see a sender for the first time (greylisting): "
            "the message stays in the outbox, and a worker tries it again by itself."
        ),
    ),
)

#: A refused login: host, port and the server's reply.  A refused token has the reason of its challenge in it.
_REFUSED = re.compile(r"([\w.-]+):\d+: (?:login: )?53[45]\b(?!.*\bstatus 4\d\d\b)")


def login_trap(reason: str) -> str:
    """Return what the preset of the server's provider says about logins; empty if no preset has this server."""
    found = _REFUSED.search(reason)
    preset = preset_of(found[1]) if found else None
    return str(preset.trap) if preset else ""
