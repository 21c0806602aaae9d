"""The app's own words in stored texts, translated where a person reads them.

Workers store why something failed in English, so that filters, logs and programs find the same text whatever language a
worker or a reader has.  ``shown`` recognises the templates below, also one inside another, and translates them; what a
server, the system or a person said stays as it was said.  ``tests/unit/test_stored_words.py`` holds that every text in
the source is here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

from django.utils.translation import gettext
from django.utils.translation import gettext_noop as _

from prx_email_django.models import Account

#: What begins or encloses another text; ``%(text)s`` is that text.
ENCLOSING = (
    _("authentication refused (%(text)s)"),
    _("this account cannot work (%(text)s)"),
    _("TLS failed (%(text)s)"),
    _("connection failed (%(text)s)"),
    _("quota used up (%(text)s)"),
    _("the server refuses all messages (%(text)s)"),
    _("too fast (%(text)s)"),
    _("too many connections (%(text)s)"),
    _("no access token: %(text)s"),
    _("no secret: %(text)s"),
    _("connection failed: %(text)s"),
    _("login: %(text)s"),
    _("greeting: %(text)s"),
    _("TLS handshake: %(text)s"),
    _("STARTTLS: %(text)s"),
    _("EHLO: %(text)s"),
)
#: What stands alone.
WHOLE = (
    # Opening a connection.
    _("no connection to %(where)s in %(seconds)s s"),
    _("no answer to the login from %(where)s in %(seconds)s s"),
    _("no answer to EHLO from %(where)s in %(seconds)s s"),
    _("no greeting from %(where)s in %(seconds)s s; that port may begin with TLS"),
    _("no greeting from %(where)s in %(seconds)s s"),
    _("the greeting from %(where)s was not complete in %(seconds)s s"),
    _("the answer to %(command)s from %(where)s was not complete in %(seconds)s s"),
    _("no TLS handshake with %(where)s in %(seconds)s s"),
    _("TLS with %(where)s: %(reason)s; that port does not begin with TLS"),
    _("TLS with %(where)s: %(reason)s; the server went on in clear text after STARTTLS"),
    _("TLS with %(where)s: %(reason)s; the server answered with POP3 or another protocol in clear text"),
    _("TLS with %(where)s: %(reason)s; the server answered with %(protocol)s in clear text"),
    _("TLS with %(where)s: %(reason)s"),
    _("the server asks for more than the mechanism has: %(reply)s"),
    _("the server throttles logins: %(reply)s"),
    _("the server offers no usable authentication mechanism (it offers %(names)s, only %(wanted)s is allowed)"),
    _("the server offers no usable authentication mechanism (it offers %(names)s)"),
    _("the server offers no usable authentication mechanism (it offers nothing)"),
    _("the server does not offer STARTTLS"),
    _("credentials go in clear text to loopback only"),
    _(
        "clear text is not allowed to this host: choose STARTTLS or implicit TLS, or, on a network that you trust, add "
        'the host to the setting: PRX_EMAIL["CLEARTEXT_HOSTS"] = ["%(host)s"]'
    ),
    _("ACCOUNT_HOSTS does not allow this host"),
    _("%(name)s cannot be used: it is not a file"),
    _("%(name)s cannot be used: it is not a path"),
    _("%(name)s cannot be used: it is too large"),
    _("%(name)s cannot be used: it holds no certificate in PEM format"),
    _("%(name)s cannot be used: its key is encrypted"),
    _("%(name)s cannot be used: certificate and key must be there, in PEM format"),
    _("%(name)s cannot be used: the key is not that of the first certificate"),
    _("%(name)s cannot be used: its key or signature is too weak"),
    _("%(name)s cannot be used: %(reason)s"),
    _("%(field)s cannot be decrypted with the keys in CREDENTIAL_KEYS"),
    _("%(field)s cannot be decrypted with SECRET_KEY; is the old key missing in SECRET_KEY_FALLBACKS?"),
    # Steps of a check.
    _("clear text, which is allowed to this host"),
    _("no certificate"),
    _("%(version)s, no certificate"),
    _("%(version)s, certificate by an unnamed authority, %(days)s days left"),
    _("%(version)s, certificate by %(name)s, %(days)s days left"),
    # A connection's end.
    _("no reply in time"),
    _("the server closed the connection"),
    _("the connection was lost"),
    _("the connection was lost: %(error)s"),
    _("the connection was cut"),
    _("the connection ended"),
    _("the server ended the session"),
    _("closed by us"),
    _("cut off by us"),
    _("%(error)s in the connection"),
    _("the connection was cut while the message was on its way"),
    _("the connection ended before the message was sent"),
    _("not done within SEND_DEADLINE"),
    _("a reply without a command: %(reply)s"),
    _("a reply before the end of the body"),
    _("a reply to RCPT named the quota"),
    _("a recipient was accepted without a sender: %(reply)s"),
    _("reply line too long"),
    _("reply of too many lines"),
    _("a reply whose lines have different codes"),
    _("not an SMTP reply: the server answered with another protocol"),
    _("not an SMTP reply: the server answered with POP3 or another protocol"),
    _("not an SMTP reply: the server answered with %(protocol)s"),
    # A message.
    _("the message has no recipient"),
    _("the message has no recipients"),
    _("the message has more recipients than the account's limit (%(limit)s)"),
    _("message of %(size)s bytes exceeds the server's limit of %(limit)s"),
    _("an address has characters that no envelope can carry"),
    _("the address has characters beyond ASCII, and the server does not offer SMTPUTF8"),
    _("a non-ASCII address or header, and the server lacks SMTPUTF8"),
    _("the domain of an address is not a host name"),
    _("the domain of an address is too long"),
    _("the domain of an address is empty"),
    _("the message cannot be rendered: %(error)s"),
    _("the content has been removed"),
    _("the stored content is missing or altered"),
    _("the worker that was sending this message was lost; it may have been delivered"),
    _("the worker was lost before it recorded a result"),
    _("simulated network failure"),
    _("451 simulated temporary refusal"),
    _("550 simulated refusal"),
    # A token.
    _("the account has no usable access token"),
    _("the answer has no usable access token"),
    _("%(count)s requests for a token, and no message could be sent"),
    _("the mail server refuses the token, and the same token was issued again"),
    _("no token within %(seconds)s seconds"),
    _("the account lacks what the provider %(provider)s needs to fetch a token"),
    _("the answer of the token server is too long"),
    _("the token address redirects (HTTP %(status)s)"),
    _("the token server answered HTTP %(status)s"),
    _("the token server refused: %(reason)s"),
    _("the token server did not answer in time"),
    _("TLS to the token server: %(problem)s"),
    _("the token server can't be reached (%(error)s)"),
    _("ACCOUNT_HOSTS does not allow the host of the token address"),
    _("ACCOUNT_HOSTS does not allow the host of the authorization server"),
    _("OAUTH_SERVERS does not name the server of the account's token address"),
    _("the token address is not a plain URL"),
    _("the token address must be https (http only to loopback)"),
    _("OAUTH_CALLABLES does not list the OAuth callable of the account"),
    _("%(function)s can't be imported: there is no module %(module)s"),
    _("%(function)s can't be imported"),
    _("%(function)s is not a function"),
    _("%(function)s raised %(error)s in %(place)s, line %(line)s"),
    _("%(function)s gave no token within %(seconds)s s"),
    _("%(function)s must return (token, expires_at | None)"),
    _("%(function)s must return an aware datetime, or None"),
    _("the certificate of the application needs client id and tenant of the account"),
    _("the certificate of the application cannot be used: check key and tenant"),
    _("the client secret must hold private key and certificate of the application, as PEM"),
    _("the client secret is not the JSON key of a service account"),
    # A reference to a secret.
    _("%(reference)s: the variable is not set"),
    _("%(reference)s: the variable is empty"),
    _("%(reference)s: it does not hold text in UTF-8"),
    _("%(reference)s: it does not hold text"),
    _("%(reference)s: it is not a file of at most %(most)s bytes"),
    _("%(reference)s: the file is empty"),
    # A field of an account that validation refuses, where the sentence holds a value.
    _("“%(part)s” must be a rate limit, for example “30/minute” or “10000 recipients/day”."),
    _("“%(part)s”: only one limit of %(what)s is possible for each unit."),
    _("The reference %(problem)s. A secret that begins like this is written with a backslash before it."),
    _("names nothing: write env:NAME or file:/path"),
    _("is not the name of a variable"),
    _("must name an absolute path: workers may start in different directories"),
)
#: A cut text is recognised if so many of its characters are those of a template.
ENOUGH = 40

_PLACEHOLDER = re.compile(r"%\((\w+)\)s")
_WHERE = re.compile(r"(\S+:\d+): (.+)", re.DOTALL)
#: A problem with a field of an account, as its validation words it.
_FIELD = re.compile(rf"({'|'.join(field.name for field in Account._meta.concrete_fields)}): (.+)", re.DOTALL)
_are_stored: ContextVar[bool] = ContextVar("prx_email_django_stored_words", default=False)


@contextmanager
def as_stored() -> Iterator[None]:
    """Within this ``shown`` returns texts as they are stored: ``advice`` knows the English ones only."""
    token = _are_stored.set(True)
    try:
        yield
    finally:
        _are_stored.reset(token)


def shown(text: str) -> str:
    """Return a stored text with the app's own words in the active language."""
    if not text or _are_stored.get():
        return text
    parsed = _parsed(text)
    if parsed is not None:
        template, values = parsed
        translated = gettext(template)
        # Server words may hold a percent sign: they are values, never a template.
        return translated % {name: shown(value) for name, value in values.items()} if values else translated
    if located := _WHERE.fullmatch(text):
        where, said = located.groups()
        return f"{where}: {shown(said)}"
    if named := _FIELD.fullmatch(text):
        field, said = named.groups()
        translated = gettext(said)
        return f"{field}: {shown(said) if translated == said else translated}"
    return text


def _pattern(template: str) -> re.Pattern[str]:
    parts = _PLACEHOLDER.split(template)
    # What a text begins with is a name without blanks; else the words of a server could be taken for ours.
    begin = r"\S+?" if not parts[0] else ".+?"
    values = [f"(?P<{name}>{'.+?' if number else begin})" for number, name in enumerate(parts[1::2])]
    literals = [re.escape(part) for part in parts[::2]]
    return re.compile("".join(map("".join, zip(literals, [*values, ""], strict=True))), re.DOTALL)


_PATTERNS = tuple((template, _pattern(template)) for template in (*ENCLOSING, *WHOLE))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple[str, dict[str, str]] | None:
    for template, pattern in _PATTERNS:
        if found := pattern.fullmatch(text):
            return template, found.groupdict()
    if text.endswith("…"):
        return _cut(text[:-1])
    return None


def _cut(beginning: str) -> tuple[str, dict[str, str]] | None:
    """The template whose words a text begins with that was cut at the length of its column."""
    for template in WHOLE:
        if (values := _cut_values(template, beginning)) is not None:
            return template, dict.fromkeys(_PLACEHOLDER.findall(template), "…") | values
    return None


def _cut_values(template: str, beginning: str) -> dict[str, str] | None:
    """The values that stand before the cut; None: it is not the beginning of this template.

    The cut is in the template's own words.  A text that was cut in a value is left as it is.
    """
    parts = _PLACEHOLDER.split(template)
    literals, names = parts[::2], parts[1::2]
    if not beginning.startswith(literals[0][: len(beginning)]):
        return None
    for number, literal in enumerate(literals):
        begin, seen = literals[:number], sum(map(len, literals[:number]))
        for length in range(len(literal), max(0, ENOUGH - seen - 1), -1):
            # Without the first look each text of a server would be matched with thousands of patterns.
            if beginning.endswith(literal[:length]):
                pattern = "".join(f"{re.escape(words)}(.+?)" for words in begin) + re.escape(literal[:length])
                if found := re.fullmatch(pattern, beginning, re.DOTALL):
                    return dict(zip(names, found.groups(), strict=False))
    return None
