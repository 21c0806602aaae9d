"""``manage.py outbox_authorize``: a person signs in at Google or Microsoft, and the refresh token is stored."""

from __future__ import annotations

import os
import select
import sys
import time
import webbrowser
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from django.views.decorators.debug import sensitive_variables

from prx_email_django.api.sign_in import sign_in_server, store_sign_in
from prx_email_django.conf.references import SecretAbsent
from prx_email_django.management._common import OutboxCommand, account_named, plain_errors
from prx_email_django.models import Account
from prx_email_django.models.encrypted import DecryptionFailed
from prx_email_django.oauth import device, sign_in
from prx_email_django.oauth.loopback import LoopbackReceiver
from prx_email_django.oauth.servers import AuthorizationServer
from prx_email_django.oauth.sign_in import SignedIn
from prx_email_django.oauth.token import TokenRefused
from prx_email_django.rules.words import in_words
from prx_email_django.status.advice import advice

#: Seconds that a person has for signing in.
PATIENCE = 600.0


class Command(OutboxCommand):
    """Signs in by a loopback redirect (RFC 8252) or by the device flow (RFC 8628)."""

    help = gettext_noop(
        "Signs in at the provider of an account, and stores the refresh token. Client id and client "
        "secret are those of the account. Exit code 0: stored; 1: not."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the account, and how to sign in."""
        parser.add_argument("account", metavar="ACCOUNT", help=_("name of the account"))
        parser.add_argument("--device", action="store_true", help=_("sign in at another device, with a code"))
        parser.add_argument(
            "--port",
            type=int,
            default=0,
            metavar="N",
            help=_("port of the redirect on 127.0.0.1 (default: a free one)"),
        )
        parser.add_argument("--no-browser", action="store_true", help=_("only print the address, open no browser"))

    @sensitive_variables()
    def handle(self, *args: Any, **options: Any) -> None:
        """Sign in, store the refresh token, and say what to do next."""
        if not 0 <= options["port"] <= 65535:
            raise CommandError(_("--port must be between 1 and 65535, or 0 for a free one."))
        with plain_errors():
            account = account_named(options["account"])
            try:
                server = sign_in_server(account)
                found = self._device(account) if options["device"] else self._loopback(account, server, options)
                stored = store_sign_in(account, found)
            except (TokenRefused, DecryptionFailed, SecretAbsent) as error:
                text = _("Nothing was stored: %(error)s.") % {"error": in_words(getattr(error, "said", error), _)}
                raise CommandError(f"{text} {advice(str(error))}".rstrip()) from None
        self.stdout.write(
            _("%(address)s has signed in; the refresh token of “%(name)s” is stored, encrypted.")
            % {"address": found.address, "name": stored.name}
        )
        if not stored.is_active:
            self.stdout.write(_("The account is inactive: activate it before you send."))
        self.stdout.write(_("Try the account now: manage.py outbox_check %(name)s") % {"name": stored.name})

    @sensitive_variables()
    def _device(self, account: Account) -> SignedIn:
        code = device.begin(account)
        self.stdout.write(
            _("Open %(address)s in any browser, and enter the code %(user_code)s")
            % {"address": code.address, "user_code": code.user_code}
        )
        self.stdout.write(_("Sign in as %(user)s. Waiting…") % {"user": account.user})
        self.stdout.flush()
        return device.finish(account, code)

    @sensitive_variables()
    def _loopback(self, account: Account, server: AuthorizationServer, options: dict[str, Any]) -> SignedIn:
        try:
            receiver = LoopbackReceiver(host=server.loopback, port=options["port"])
        except OSError as error:
            raise CommandError(
                _("Port %(port)s can't be used (%(strerror)s): choose another.")
                % {"port": options["port"], "strerror": error.strerror}
            ) from None
        with receiver:
            started, address = sign_in.begin(account, redirect_uri=receiver.redirect_uri)
            receiver.state = started.state
            self.stdout.write(
                _("Sign in as %(user)s at this address:\n\n%(address)s\n") % {"user": account.user, "address": address}
            )
            opened = not options["no_browser"] and webbrowser.open(address)
            if not opened:
                self.stdout.write(
                    _(
                        "If the browser is on another machine, forward the port first (ssh -L "
                        "%(port)s:127.0.0.1:%(port)s …), or paste the address here in which the browser ends "
                        "(%(redirect_uri)s/?…)."
                    )
                    % {"port": receiver.port, "redirect_uri": receiver.redirect_uri}
                )
            self.stdout.write("Waiting…")
            self.stdout.flush()
            return sign_in.finish(account, started, self._answer(receiver))

    def _answer(self, receiver: LoopbackReceiver) -> Mapping[str, str]:
        """Wait for the browser, or for an address that is pasted into the terminal."""
        pasting = os.name == "posix" and sys.stdin is not None and sys.stdin.isatty()
        ends_at = time.monotonic() + PATIENCE
        while time.monotonic() < ends_at:
            answer = receiver.wait(0.2 if pasting else 1.0)
            if answer is not None:
                return answer
            if pasting and select.select([sys.stdin], [], [], 0)[0]:
                line = sys.stdin.readline()
                pasting = bool(line)
                if line.strip() and not receiver.take(line):
                    self.stderr.write(_("That is not the address of this sign-in."))
        raise sign_in.refused("the sign-in took too long", "expired")
