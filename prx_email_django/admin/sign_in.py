"""The button *Connect with Google* (or Microsoft): a person signs in, and the refresh token is stored.

Begins with a POST, or with the redirect after *Save and connect*; both need the permission to change the account.  The
provider sends the browser back to one address of this admin site, so that a single redirect URI must be registered.
``state`` is signed, ends after ten minutes, and names an entry of the person's own session that is deleted when it is
used.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from django.contrib import messages
from django.core import signing
from django.db import connections, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.crypto import get_random_string
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_safe

from prx_email_django.admin.base import OperatorMixin, log, page_url
from prx_email_django.admin.own_redirect import check_post_or_own_redirect, redirect_after_save
from prx_email_django.api.sign_in import sign_in_server, store_sign_in
from prx_email_django.conf.references import SecretAbsent
from prx_email_django.models import Account
from prx_email_django.models.encrypted import DecryptionFailed
from prx_email_django.oauth.sign_in import SignIn, begin, finish, refused
from prx_email_django.oauth.token import TokenRefused
from prx_email_django.rules.words import in_words, words
from prx_email_django.status.advice import advice

logger = logging.getLogger("prx_email_django")

#: Seconds that a person has for signing in.
MAX_AGE = 600
#: Sign-ins that one session may have begun and not finished; older ones are forgotten.
MAX_OPEN = 5
#: Name of the button “Save and connect”.
SAVE_AND_CONNECT = "_connect"
SESSION_KEY = "prx_email_django_sign_ins"
_SALT = "prx_email_django.sign_in"


class SignInMixin(OperatorMixin):
    """Views ``/<id>/sign-in/`` (POST: go to the provider) and ``/signed-in/`` (the provider's answer)."""

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the sign-in before Django's own."""
        answered = self.admin_site.admin_view(require_safe(self.signed_in_view))
        for alias in connections:  # no transaction waits for the provider; what is stored has its own
            answered = transaction.non_atomic_requests(using=alias)(answered)
        return [
            path("<int:pk>/sign-in/", self.admin_site.admin_view(self.sign_in_view), name=self.url_name("sign_in")),
            path("signed-in/", answered, name=self.url_name("signed_in")),
            *super().get_urls(),
        ]

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        """After “Save and connect”, go to the provider."""
        return self._to_sign_in(request, obj) or super().response_change(request, obj)

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        """After “Save and connect”, go to the provider."""
        return self._to_sign_in(request, obj) or super().response_add(request, obj, post_url_continue)

    def _to_sign_in(self, request: HttpRequest, account: Account) -> HttpResponse | None:
        return redirect_after_save(self, request, account, button=SAVE_AND_CONNECT, page="sign_in")

    @sensitive_variables()
    def sign_in_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Send the person to the provider: a POST request, or the signed redirect of “Save and connect”."""
        account = self.operable(request, pk)
        check_post_or_own_redirect(request, account, "sign_in")
        key = get_random_string(32)
        try:
            sign_in_server(account)
            started, address = begin(
                account, redirect_uri=self.redirect_uri(request), state=signing.dumps([key, pk], salt=_SALT)
            )
        except (TokenRefused, DecryptionFailed, SecretAbsent) as error:
            return self._failed(request, account, error)
        entry = {**asdict(started), "account": pk, "person": str(request.user.pk)}
        begun = {**request.session.get(SESSION_KEY, {}), key: entry}
        request.session[SESSION_KEY] = dict(list(begun.items())[-MAX_OPEN:])
        return HttpResponseRedirect(address)

    @method_decorator(sensitive_post_parameters())
    @sensitive_variables()
    def signed_in_view(self, request: HttpRequest) -> HttpResponse:
        """Take the provider's answer; it counts once, and only in the session that began."""
        account: Any = None
        try:
            entry = self._begun(request)
            account = self._operable_again(request, entry.pop("account"))
            sign_in_server(account)
            found = finish(account, SignIn(**entry), {name: request.GET[name] for name in request.GET})
            store_sign_in(account, found)
        except (TokenRefused, DecryptionFailed, SecretAbsent) as error:
            return self._failed(request, account, error)
        log(request, [account], _("Signed in at the provider; the refresh token was stored."))
        text = _(
            "Connected: %(address)s has signed in. The next message is sent with this sign-in; check the account now."
        )
        messages.success(request, text % {"address": found.address})
        return self.back_to("change", account.pk)

    def redirect_uri(self, request: HttpRequest) -> str:
        """Return the address to which the provider sends the browser back; it must be registered there."""
        name = f"{self.admin_site.name}:{self.url_name('signed_in')}"
        return request.build_absolute_uri(reverse(name, current_app=self.admin_site.name))

    def sign_in_context(self, request: HttpRequest, account: Account) -> dict[str, Any]:
        """Return what the account's page needs for the button; empty where nobody can sign in for the account."""
        if not account.oauth_provider or account.auth_method != "xoauth2":
            return {}
        if not self.has_operate_permission(request, account):
            return {}
        try:
            server = sign_in_server(account)
        except (TokenRefused, DecryptionFailed, SecretAbsent) as error:
            if account.oauth_provider == "custom" or account.oauth_refresh_token:
                return {}
            return {"sign_in_problem": advice(str(error))}
        return {"sign_in_name": server.name, "sign_in_redirect_uri": self.redirect_uri(request)}

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Add the button to the page of an account."""
        context["save_and_connect"] = SAVE_AND_CONNECT
        if kwargs.get("obj") is not None:
            context.update(self.sign_in_context(request, kwargs["obj"]))
        return super().render_change_form(request, context, *args, **kwargs)

    @sensitive_variables()
    def _begun(self, request: HttpRequest) -> dict[str, Any]:
        """Take the sign-in to which the answer belongs out of the session.

        Raises:
            TokenRefused: the state was not made here, is too old, was used before, or is another session's.
        """
        try:
            key, pk = signing.loads(request.GET.get("state", ""), salt=_SALT, max_age=MAX_AGE)
        except signing.SignatureExpired:
            raise refused(words(gettext_noop("the sign-in took too long")), "expired") from None
        except (signing.BadSignature, ValueError, TypeError):
            raise refused(
                words(gettext_noop("this answer belongs to no sign-in that was begun here")), "state"
            ) from None
        begun = dict(request.session.get(SESSION_KEY, {}))
        entry = begun.pop(key, None)
        # Written now: an error later in this request must not make the state usable again.
        request.session[SESSION_KEY] = begun
        request.session.save()
        if entry is None or entry["account"] != pk or entry.pop("person") != str(request.user.pk):
            raise refused(words(gettext_noop("this answer belongs to no sign-in that was begun here")), "state")
        return dict(entry)

    def _operable_again(self, request: HttpRequest, pk: int) -> Any:
        try:
            return self.operable(request, pk)
        except Http404:
            raise refused(words(gettext_noop("the account was deleted during the sign-in")), "changed") from None

    def _failed(self, request: HttpRequest, account: Any, error: Exception) -> HttpResponse:
        """Show what went wrong and what to do; nothing was stored."""
        code = getattr(error, "code", "")
        logger.warning("sign-in failed: %s", code or type(error).__name__, extra={"error_code": code})
        response = self.own_page(
            request,
            "sign_in_failed.html",
            title=_("Signing in failed"),
            error=in_words(getattr(error, "said", error), _),
            advice=advice(str(error)),
            redirect_uri=self.redirect_uri(request),
            back=page_url(self, self.model, *(("change", account.pk) if account else ("changelist",))),
        )
        response.status_code = 400
        response["Referrer-Policy"] = "no-referrer"  # the address of this page may hold a code
        return response
