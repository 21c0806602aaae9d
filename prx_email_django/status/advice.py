"""Advice for the troubles that the app words itself, and for what servers, OpenSSL and the operating system say.

``tests/unit/test_advice.py`` collects every text of a trouble from the source and demands advice for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy

from prx_email_django.status.login_advice import LATER_ADVICE, LOGIN_ADVICE, login_trap
from prx_email_django.status.oauth_advice import OAUTH_ADVICE

#: Patterns in the error text of servers, OpenSSL and the operating system, each with advice that may help.
_ADVICE = (
    (
        "SECRET_KEY|CREDENTIAL_KEYS",
        gettext_lazy(
            "The key has changed with which the credentials were encrypted: add the old key to SECRET_KEY_FALLBACKS "
            "(or to CREDENTIAL_KEYS), or enter the credentials again."
        ),
    ),
    (
        r"env:\S+: the variable|file:\S+: ",
        gettext_lazy(
            "Set the variable, or put the file there, for every process that sends; a process keeps the environment "
            "with which it was started."
        ),
    ),
    (
        "ACCOUNT_HOSTS",
        gettext_lazy(
            "The operator of this site must add the host to ACCOUNT_HOSTS, or the account needs another host."
        ),
    ),
    (
        "cannot work",
        gettext_lazy("Open the account in the admin and save it: the form says which field to correct, and how."),
    ),
    (
        r"5\.7\.60|SendAsDenied|(not allowed|not permitted|no permission) to send as|not owned by user"
        "|sender address rejected|from address (not|is not) verified|not verified",
        gettext_lazy(
            "The provider does not let this account send under that address: use the account's own address as sender, "
            "or have the provider verify the address or domain."
        ),
    ),
    (
        "(issue|use|requires?) a? ?starttls|starttls (command )?(first|required)",
        gettext_lazy("The server demands TLS: choose STARTTLS as the security of the account."),
    ),
    (
        r": (MAIL|RCPT): .*(\b53[058]\b|\bauth|log-?[io]n\b|log(ged)? in\b)",
        gettext_lazy(
            "The server demands a login: give the account a user and a password (or token), or have the server’s "
            "administrator allow this machine to send without a login."
        ),
    ),
    (
        "does not offer STARTTLS",
        gettext_lazy(
            "Choose implicit TLS and port 465 if the server has it. A relay without TLS needs security “none” and an "
            "entry in CLEARTEXT_HOSTS; never send a password to it."
        ),
    ),
    (
        "clear text is not allowed",
        gettext_lazy("Choose STARTTLS or implicit TLS, or add the host (or its network) to CLEARTEXT_HOSTS."),
    ),
    (
        "credentials go in clear text",
        gettext_lazy(
            "Choose STARTTLS or implicit TLS, or authentication “none” for a relay that accepts this machine as it is."
        ),
    ),
    (
        "HTTP (server|answer)|answered with HTTP",
        gettext_lazy("A web server answers at this host and port: enter the host and port of the mail server."),
    ),
    (
        "answered with (IMAP|POP3)",
        gettext_lazy("This port is for reading mail: mail servers take messages on port 465 or 587."),
    ),
    (
        "answered with SSH",
        gettext_lazy("An SSH server answers at this port: mail servers take messages on port 465 or 587."),
    ),
    (
        "answered with FTP",
        gettext_lazy("An FTP server answers at this port: mail servers take messages on port 465 or 587."),
    ),
    (
        "answered with SMTP",
        gettext_lazy(
            "A mail server answers at this port, and does not begin with TLS there: choose STARTTLS, or the server’s "
            "TLS port (465)."
        ),
    ),
    (
        "in clear text after STARTTLS",
        gettext_lazy(
            "The server, or a firewall or virus scanner before it, accepts STARTTLS and does not begin TLS: choose "
            "implicit TLS and port 465."
        ),
    ),
    (
        "answered with TLS",
        gettext_lazy("This port starts with TLS: choose implicit TLS, or the server’s STARTTLS port (587 or 25)."),
    ),
    (
        "WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE",
        gettext_lazy("This port does not start with TLS: choose STARTTLS, or the server’s TLS port (465)."),
    ),
    (
        "not an SMTP (server|reply)|reply of too many lines|reply line too long|different codes|without a command"
        "|reply before the end",
        gettext_lazy(
            "What answers does not keep to SMTP: check host and port. The log of the worker holds what was received."
        ),
    ),
    (
        r"\bunexpected \w+\)?$",
        gettext_lazy(
            "An error of this app or of a library, not of the server: the log of the worker holds it. Please report it."
        ),
    ),
    (
        "cannot be used: its key is encrypted",
        gettext_lazy("Store the key without a passphrase (openssl pkey -in OLD -out NEW): a worker has nobody to ask."),
    ),
    (
        "cannot be used: the key is not that of",
        gettext_lazy(
            "Set tls_key_file to the key for which the certificate was issued. In tls_cert_file the client’s own "
            "certificate comes first, then those of its authorities."
        ),
    ),
    (
        "cannot be used: its key or signature",
        gettext_lazy("Have the client certificate issued again, with a key of 2048 bits or more (RSA), or an EC key."),
    ),
    (
        "cannot be used: .*in PEM format",
        gettext_lazy(
            "PEM is text that begins with -----BEGIN CERTIFICATE----- (a key: PRIVATE KEY). Convert another format: "
            "openssl x509 -inform DER, or openssl pkcs12 for .p12 and .pfx."
        ),
    ),
    (
        r"(TLS_CA_FILE|tls_\w+_file|CA file) cannot be used",
        gettext_lazy("The file must exist on every machine that sends, in PEM format and readable for the worker."),
    ),
    (
        "ALERT_HANDSHAKE_FAILURE",
        gettext_lazy(
            "The server refused the TLS handshake: where it demands a client certificate, set tls_cert_file and "
            "tls_key_file; else it offers only outdated encryption, and its administrator must allow TLS 1.2 or later."
        ),
    ),
    (
        "ALERT_(CERTIFICATE|UNKNOWN_CA|BAD_CERTIFICATE|ACCESS_DENIED|UNSUPPORTED_CERTIFICATE)",
        gettext_lazy(
            "The server refused the TLS handshake: where it demands a client certificate, set tls_cert_file and "
            "tls_key_file to one that it accepts."
        ),
    ),
    (
        "UNRECOGNIZED_NAME",
        gettext_lazy("The server does not know this host name: enter the one that its provider publishes."),
    ),
    (
        r"(TLS handshake|TLS with \S+): the server closed the connection",
        gettext_lazy(
            "The server ended the connection where TLS should begin: this port may not begin with TLS (then choose "
            "STARTTLS and port 587), or the server, or a firewall before it, does not let this machine in."
        ),
    ),
    (
        "STARTTLS: the server closed the connection",
        gettext_lazy(
            "The server ended the connection after STARTTLS: choose implicit TLS and port 465; if that fails too, its "
            "administrator must look."
        ),
    ),
    (
        r": STARTTLS: [45]\d\d\b",
        gettext_lazy(
            "The server cannot begin TLS, and says why in its own words: choose implicit TLS and port 465, or have its "
            "administrator look at its certificate."
        ),
    ),
    (
        r": EHLO: 50[0-4]\b",
        gettext_lazy(
            "What answers greets as a mail server does, and does not know EHLO: check host and port (an FTP server "
            "answers so)."
        ),
    ),
    (
        "unsupported.protocol|protocol.version|legacy.sigalg|dh.key.too.small|no.shared.cipher|handshake.failure"
        "|wrong.ssl.version|unsafe.legacy.renegotiation|insufficient.security",
        gettext_lazy("The server offers only outdated encryption: its administrator must allow TLS 1.2 or later."),
    ),
    (
        "too.weak|key.too.small|unsuitable certificate purpose|wrong.signature.type",
        gettext_lazy(
            "The server’s certificate is of no use: its key or signature is too weak, or it was made for another "
            "purpose. The administrator of the server must issue a new one."
        ),
    ),
    (
        "key.identifier|basic.constraints|key.usage|(CA|authority) cert|invalid CA|path length|marked critical"
        "|subject alternative name|(subject|issuer name) empty|explicit ECC|at least X509v3",
        gettext_lazy(
            "The certificate breaks RFC 5280, which Python checks from 3.13 on: the administrator of the server must "
            "issue it again, with the extensions that the text names."
        ),
    ),
    (
        "TLS to the token server: .*(issuer certificate|self.signed|first certificate)",
        gettext_lazy(
            "This machine does not know the certificate authority of the token server: set TLS_CA_FILE to its "
            "certificate."
        ),
    ),
    (
        "issuer certificate|self.signed|first certificate",
        gettext_lazy(
            "This machine does not know the certificate authority: set TLS_CA_FILE, or tls_ca_file of the account, to "
            "its certificate. A public server that others reach may not send its intermediate certificate: its "
            "administrator must add it."
        ),
    ),
    (
        "(hostname|address) mismatch|not valid for",
        gettext_lazy("The certificate is for another host: enter the host name that the certificate contains."),
    ),
    (
        "certificate (has|is) (expired|not yet valid)",
        gettext_lazy(
            "The server’s certificate is not valid at this time: its administrator must renew it; also check the clock "
            "of this machine."
        ),
    ),
    (
        "temporary failure in name resolution",
        gettext_lazy(
            "The name server of this machine does not answer: check its network and DNS, and the spelling of the host."
        ),
    ),
    (
        "name or service not known|nodename nor servname|name resolution|no address associated|name does not resolve"
        "|not a host name|the host is",
        gettext_lazy("DNS does not know this host: check the spelling of the host name."),
    ),
    (
        r"no connection to \S+:25 in|:25: (network is unreachable|no route)",
        gettext_lazy(
            "Clouds and home networks block port 25 outwards: use port 587 with STARTTLS, or 465 with implicit TLS."
        ),
    ),
    (
        "network is unreachable|cannot assign requested address|address family not supported",
        gettext_lazy(
            "This machine has no route to the server’s address. Where the host has only IPv6 addresses, this machine "
            "needs IPv6, or the account another host."
        ),
    ),
    (
        r"(localhost|\b127(\.\d+){3}|\[::1\]):\d+: connection refused",
        gettext_lazy(
            "No mail server listens at this port of this machine, or a firewall blocks it: start it, or correct the "
            "port. In a container, localhost is the container itself: enter the name of the mail server’s service."
        ),
    ),
    (
        "connection (refused|reset)|unreachable|no route|is down|permission denied",
        gettext_lazy("No mail server answers at this host and port, or a firewall blocks the connection."),
    ),
    (
        "may begin with TLS",
        gettext_lazy(
            "The server waits in silence, as a port that begins with TLS does (then choose implicit TLS), or one that "
            "is not for mail (then choose port 587)."
        ),
    ),
    (
        "no connection to ",
        gettext_lazy(
            "Nothing answers: a firewall drops the connection, or host or port is wrong. Mail servers take messages on "
            "port 465 or 587."
        ),
    ),
    (
        "no TLS handshake with ",
        gettext_lazy(
            "The server accepts the connection and does not go on with TLS: implicit TLS is usual on port 465, "
            "STARTTLS on port 587. A firewall or proxy in between may also hold the connection."
        ),
    ),
    (
        "was not complete in ",
        gettext_lazy(
            "The server sends its answer very slowly: it is overloaded, or it slows down machines that it does not "
            "know. Check again later, or ask its administrator."
        ),
    ),
    (
        "no answer to (EHLO|the login)|no reply in time",
        gettext_lazy(
            "The server began to answer and then fell silent: it is overloaded, or a firewall or virus scanner in "
            "between holds the connection. Check again later, or ask its administrator."
        ),
    ),
    (
        "login: the server closed the connection",
        gettext_lazy(
            "The server ended the connection at the login, as many do after a wrong password: enter user and password "
            "(or token) again. It may also refuse this machine."
        ),
    ),
    (
        "not done within",
        gettext_lazy(
            "The attempt took longer than a caller may wait: the server is slow, or does not answer. Queue such "
            "messages with enqueue(), or allow more time by SEND_DEADLINE."
        ),
    ),
    (
        "no (answer|reply|greeting|connection|TLS handshake)( [a-z ]+)? (in|from|to|with) ",
        gettext_lazy(
            "The server does not answer: port 465 does not work with STARTTLS, and a firewall may drop packets."
        ),
    ),
    *OAUTH_ADVICE,
    (
        "token (address|server)|HTTP [0-9]+|redirects",
        gettext_lazy(
            "No access token came from the token server: check the token address, client id and client secret of the "
            "account, and whether a firewall blocks this machine."
        ),
    ),
    (
        "OAUTH_CALLABLES|imported|is not a function|must return| raised |usable access token|no token within",
        gettext_lazy(
            "The source of access tokens failed: check the provider or the function that the account names, and the "
            "log of the project."
        ),
    ),
    (
        "lacks what the provider",
        gettext_lazy("Fill in client id, client secret and refresh token of the account."),
    ),
    (
        "no usable authentication|asks for more than the mechanism",
        gettext_lazy(
            "The server offers no authentication that this account can use, or only after TLS: check security and "
            "authentication method."
        ),
    ),
    (
        "no access token|requests for a token|refuses the token",
        gettext_lazy(
            "Check the token provider of the account and its fields (client id, client secret, tenant, token address, "
            "scope), or store a new token."
        ),
    ),
    (
        r"pipelin(ing|ed)\b|synchroni[sz]ation error|protocol synchroni[sz]ation",
        gettext_lazy(
            "The server does not bear commands that come before its replies: set pipelining of the account to “off” "
            "(or “envelope”)."
        ),
    ),
    (
        "refuses all messages|sending suspended",
        gettext_lazy(
            "The server refuses one message after another in the same words: ask the provider why, and resume the "
            "account when that is solved. What was refused meanwhile is sent then."
        ),
    ),
    (
        "too fast|too many connections",
        gettext_lazy(
            "The server is asked for too much at once: set a rate limit, or allow fewer connections of the account."
        ),
    ),
    (
        "throttles logins",
        gettext_lazy(
            "The server slows down logins, often after wrong ones: the account tries again when the pause ends. Check "
            "the password (or token), and allow fewer connections at once."
        ),
    ),
    (
        r"authentication refused|: login: [45]\d\d\b|\b53[058]\b"
        r"|(authentication|login) (is )?required|not authenticated|must authenticate",
        gettext_lazy(
            "Enter the user and the password (or token) again; many providers require an app password or OAuth. A "
            "server that demands a login does not accept authentication “none”."
        ),
    ),
    (
        r"5\.7\.705|tenant has exceeded threshold|bad outbound sender",
        gettext_lazy(
            "Microsoft has blocked the mailbox or the whole organization, often after spam was sent from it: its "
            "administrator must find the cause, and lift the restriction in the Defender portal or with support."
        ),
    ),
    (
        "quota used up|(sending|daily|hourly) (limit|quota)",
        gettext_lazy(
            "The provider limits how much this account may send: set rate limits below its limit, or ask for more."
        ),
    ),
    (
        r": (MAIL|RCPT): 5\d\d\b",
        gettext_lazy(
            "The server takes no mail from this machine or from this sender: have its administrator allow both, or use "
            "a server that the account logs in to."
        ),
    ),
    (
        r": (MAIL|RCPT): 4\d\d\b",
        gettext_lazy("The server takes no mail at present, and says why in its own words: check again later."),
    ),
    (
        r": (greeting|EHLO): [45]\d\d\b",
        gettext_lazy(
            "The server refuses this machine before any login, and says why in its own words: many servers block the "
            "addresses of clouds and home networks, or are closed for a while."
        ),
    ),
    (
        "TLS failed|TLS:|TLS with ",
        gettext_lazy(
            "The connection could not be secured: check security and port, and the certificate of the server."
        ),
    ),
    (
        "connection (failed|was lost|ended)|closed the connection|within SEND_DEADLINE|ended before",
        gettext_lazy(
            "The connection ended early: the server may be restarting, refuse this machine, or expect another kind of "
            "security on this port."
        ),
    ),
)


def advice(reason: str) -> str:
    """Return advice for the reason of a pause or of a failed attempt; empty if there is none."""
    return _first(LOGIN_ADVICE, reason) or login_trap(reason) or _first(_ADVICE, reason) or _first(LATER_ADVICE, reason)


def _first(table: Iterable[tuple[str, Promise]], reason: str) -> str:
    for pattern, text in table:
        if re.search(pattern, reason, re.IGNORECASE):
            return str(text)
    return ""
