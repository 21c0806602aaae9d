"""The button that tries an account: a bounded request whose page shows each step as it comes.

A worker could do it too, but the button is pressed above all where no worker runs yet.  The request holds one thread of
the web server for at most twenty seconds, outside of any transaction, also when the browser has left.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from typing import Any, Self

from asgiref.sync import sync_to_async
from django.contrib import messages
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIRequest
from django.db import Error as DatabaseError
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.template.loader import render_to_string
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.translation import gettext as _

from prx_email_django import api
from prx_email_django.admin.base import OperatorMixin, page_url
from prx_email_django.admin.own_redirect import check_post_or_own_redirect, redirect_after_save
from prx_email_django.errors import OutboxError
from prx_email_django.models import Account
from prx_email_django.results import CheckStep
from prx_email_django.rules.words import in_words

logger = logging.getLogger("prx_email_django")

#: Seconds for the whole check.
TIMEOUT = 20.0
#: Name of the button “Save and check”.
SAVE_AND_CHECK = "_check"
#: Where the page is cut, to send the steps between its halves.
_STEPS = "<!-- steps -->"


class AccountCheckMixin(OperatorMixin):
    """View ``/<id>/check/``, and the button that saves and checks."""

    def get_urls(self) -> list[URLPattern]:
        """Return the URL of the check before Django's own."""
        view = self.admin_site.admin_view(self.check_view)
        return [path("<int:pk>/check/", view, name=self.url_name("check")), *super().get_urls()]

    @transaction.non_atomic_requests
    def check_view(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        """Try the account: a POST request, or the redirect of “Save and check”, which is signed for this person."""
        account = self.operable(request, pk)
        check_post_or_own_redirect(request, account, "check")
        send_to = request.POST.get("send_to", "").strip() or None
        try:
            steps = api.check_steps(account, send_to=send_to, timeout=TIMEOUT)
        except OutboxError as error:
            messages.error(request, in_words(error, _))
            return self.back_to("change", pk)
        except ImproperlyConfigured as error:  # this web server's threads are greenlets
            text = _("This web server cannot check accounts; the command outbox_check %(name)s can. %(error)s")
            messages.error(request, text % {"name": account.name, "error": error})
            return self.back_to("change", pk)
        pieces = _with_steps(self._page(request, account, send_to), steps)
        response = StreamingHttpResponse(_AsyncPieces(pieces) if isinstance(request, ASGIRequest) else pieces)
        response["Cache-Control"] = "no-store"
        response["X-Accel-Buffering"] = "no"  # nginx would hold the page back
        return response

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        """After “Save and check”, go to the check: the request that saves is inside a transaction."""
        return self._to_check(request, obj) or super().response_change(request, obj)

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        """After “Save and check”, go to the check."""
        return self._to_check(request, obj) or super().response_add(request, obj, post_url_continue)

    def _to_check(self, request: HttpRequest, account: Account) -> HttpResponse | None:
        return redirect_after_save(self, request, account, button=SAVE_AND_CHECK, page="check")

    def _page(self, request: HttpRequest, account: Account, send_to: str | None) -> str:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            "original": account,
            "title": _("Check of the account %(name)s") % {"name": account.name},
            "back": page_url(self, Account, "change", account.pk),
            "again": page_url(self, Account, "check", account.pk),
            "send_to": send_to or "",
            "mark": _STEPS,
        }
        return render_to_string("admin/prx_email_django/check.html", context, request=request)


class _AsyncPieces:
    """The pieces of the page for an ASGI server: Django would collect those of a plain iterator before it sends any.

    Each piece is made on the request's own thread, which has its connection to the database.
    """

    def __init__(self, pieces: Generator[str, None, None]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        piece = await sync_to_async(self._next)()
        if piece is None:
            raise StopAsyncIteration
        return piece

    def _next(self) -> str | None:
        return next(self._pieces, None)

    def close(self) -> None:
        """End the check; Django calls it on the request's thread, at the end or when the browser has left."""
        self._pieces.close()


def _with_steps(page: str, steps: Iterator[CheckStep]) -> Generator[str, None, None]:
    before, _mark, after = page.partition(_STEPS)
    yield before
    all_well = True
    for step in _until_error(steps):
        all_well = step.ok
        yield _row(step)
    verdict = _("All is well.") if all_well else _("This account cannot send as it is.")
    yield format_html(
        '</tbody></table><p class="outbox-verdict outbox-level-{}" role="status">{}</p>',
        "green" if all_well else "red",
        verdict,
    )
    yield after


def _until_error(steps: Iterator[CheckStep]) -> Iterator[CheckStep]:
    """The steps; where one cannot be made, say so in a step: this page has begun, so no error page can replace it."""
    try:
        yield from steps
    except (DatabaseError, OutboxError) as error:
        logger.exception("the check of an account broke off")
        text = in_words(error, _) if isinstance(error, OutboxError) else _("The database could not be used.")
        hint = _("The steps above stand. Check again; the log of the web server holds the error.")
        yield CheckStep(_("broken off"), False, 0.0, text, hint)


def _row(step: CheckStep) -> str:
    state, label = ("sent", _("ok")) if step.ok else ("failed", _("failed"))
    hint = format_html('<div class="outbox-hint-line">{}</div>', step.advice) if step.advice else ""
    return format_html(
        '<tr><th scope="row">{}</th><td><span class="outbox-badge outbox-{}">{}</span></td>'
        '<td class="outbox-nowrap">{} s</td><td class="outbox-address">{}{}</td></tr>\n',
        step.name,
        state,
        label,
        f"{step.seconds:.2f}",
        step.detail,
        hint,
    )
