"""Redirects after a save to a page that otherwise needs a POST: signed for one person, one account and one page.

The request that saves is inside a transaction, where nothing may be sent and nobody waited for.
"""

from __future__ import annotations

from django.core import signing
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseRedirect

from prx_email_django.admin.base import OperatorMixin, page_url
from prx_email_django.models import Account

#: Seconds for which the redirect may be followed.
GOOD_FOR = 60
_SALT = "prx_email_django.admin.own_redirect"


def redirect_after_save(
    model_admin: OperatorMixin, request: HttpRequest, account: Account, *, button: str, page: str
) -> HttpResponseRedirect | None:
    """Return the redirect to ``page`` if this button saved the form; None for another button, or without permission."""
    if button not in request.POST or not model_admin.has_operate_permission(request, account):
        return None
    go = signing.dumps([request.user.pk, account.pk, page], salt=_SALT)
    return HttpResponseRedirect(f"{page_url(model_admin, Account, page, account.pk)}?go={go}")


def check_post_or_own_redirect(request: HttpRequest, account: Account, page: str) -> None:
    """Refuse what is neither a POST nor such a redirect.

    Raises:
        PermissionDenied: no signature, or that of another person, account or page.
    """
    if request.method == "POST":
        return
    try:
        signed = signing.loads(request.GET.get("go", ""), salt=_SALT, max_age=GOOD_FOR)
    except signing.BadSignature:
        raise PermissionDenied from None
    if signed != [request.user.pk, account.pk, page]:
        raise PermissionDenied
