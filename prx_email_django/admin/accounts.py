"""Accounts: the one form of this admin, with secrets that are never shown, and the pause buttons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from prx_email_django.admin import columns
from prx_email_django.admin.base import FastListMixin
from prx_email_django.admin.forms import SECRETS, AccountForm, PauseForm, clear_box
from prx_email_django.admin.pauses import PauseActionsMixin
from prx_email_django.models import Account, AccountState, ConnectionSlot, InboundMessage, OutboxMessage, RateWindow
from prx_email_django.models.encrypted import is_set
from prx_email_django.models.presets import PRESETS
from prx_email_django.states import Status
from prx_email_django.status.figures import account_facts, account_reason
from prx_email_django.status.reasons import advice
from prx_email_django.store.db import clock_for

if TYPE_CHECKING:
    AccountAdminBase = admin.ModelAdmin[Account]
else:
    AccountAdminBase = admin.ModelAdmin

#: What goes with its account, without a permission of its own: nothing of it was made by a person.
OWNED = (AccountState, ConnectionSlot, RateWindow, InboundMessage)

#: Providers that take no password from a new account.
OAUTH_ONLY = frozenset({"outlook"})


class AccountChangeList(ChangeList):
    """Puts sentences and counts beside the accounts of a page, in the same few queries for any number."""

    def get_results(self, request: HttpRequest) -> None:
        """As Django's, then ``why``, ``now`` and ``at_rest`` on each account."""
        super().get_results(request)
        accounts = list(self.result_list)
        now = clock_for(None).running
        facts = account_facts(accounts, now=now)
        failed = OutboxMessage.objects.filter(
            account_id__in=[one.pk for one in accounts], status=Status.FAILED, next_attempt_at__isnull=True
        )
        at_rest = dict(failed.order_by().values_list("account_id").annotate(Count("pk")))
        for account in accounts:
            account.shown_why = account_reason(account, facts=facts[account.pk], now=now)
            account.shown_paused = bool(facts[account.pk].pause or facts[account.pk].outbox)
            account.shown_at_rest = at_rest.get(account.pk, 0)
        self.result_list = accounts


class AccountAdminMixin(PauseActionsMixin, FastListMixin):
    """The pages of accounts; derive from it to add fields and columns."""

    form = AccountForm
    list_display = ("name", "state", "at_rest", "server", "user")
    list_filter = ("is_active", "auth_method")
    search_fields = ("name", "email", "host", "user")
    ordering = ("name",)
    fieldsets = (
        (None, {"fields": ("name", ("email", "display_name"), "is_active")}),
        (gettext_lazy("Server"), {"fields": (("host", "port"), "security", "user", "auth_method")}),
        (gettext_lazy("Password"), {"fields": ("password", "clear_password")}),
        (
            gettext_lazy("OAuth"),
            {
                "fields": (
                    "oauth_provider",
                    "oauth_client_id",
                    "oauth_client_secret",
                    "clear_oauth_client_secret",
                    "oauth_refresh_token",
                    "clear_oauth_refresh_token",
                    "oauth_token",
                    "clear_oauth_token",
                    "oauth_token_expires_at",
                    "oauth_tenant",
                    "oauth_scope",
                    "oauth_token_url",
                    "oauth_callable",
                ),
            },
        ),
        (
            gettext_lazy("Limits"),
            {"fields": ("max_connections", "max_messages_per_connection", "rate_limits", "pipelining")},
        ),
    )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Ours."""
        return AccountChangeList

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Without boxes that have nothing to clear; who may only look sees whether a secret is set, not the secret."""
        if obj is not None and not self.has_change_permission(request, obj):
            replaced = {name: f"{name}_is_set" for name in SECRETS}
            return _with_fields(super().get_fieldsets(request, obj), replaced, {clear_box(name) for name in SECRETS})
        unset = {clear_box(name) for name in SECRETS if obj is None or not is_set(obj, name)}
        return _with_fields(super().get_fieldsets(request, obj), {}, unset)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Includes what stands in for secrets."""
        return [*super().get_readonly_fields(request, obj), *(f"{name}_is_set" for name in SECRETS)]

    @method_decorator(sensitive_post_parameters())
    @sensitive_variables()
    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Django's; what was typed stays out of error reports."""
        return super().changeform_view(request, object_id, form_url, extra_context)

    def render_change_form(  # noqa: PLR0913  (Django's)
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        """The form, with the account's state and buttons, or with the presets."""
        if obj is None:
            context.update(presets=list(_presets()))
        else:
            why = account_reason(obj)
            context.update(
                why=why,
                advice=advice(why),
                is_paused=bool(obj.pause_reason),
                pause_form=PauseForm() if self.has_operate_permission(request, obj) else None,
            )
        return super().render_change_form(request, context, add, change, form_url, obj)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Write the columns that this form changes and no others."""
        if change:
            obj.save(update_fields=form.changed_columns)
        else:
            super().save_model(request, obj, form, change)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """An account with messages is kept, which is said without loading them; what it owns goes with it."""
        kept = [one for one in objs if OutboxMessage.objects.filter(account_id=one.pk).exists()]
        if kept:
            return [], {}, set(), [_("messages of the account %(name)s") % {"name": one.name} for one in kept]
        deleted, counts, perms_needed, protected = super().get_deleted_objects(objs, request)
        owned = {str(model._meta.verbose_name) for model in OWNED}
        return deleted, counts, {one for one in perms_needed if str(one) not in owned}, protected

    @admin.display(description=gettext_lazy("state"))
    def state(self, account: Any) -> SafeString:
        """Whether it may send, and why not."""
        if account.is_active and not account.shown_paused:
            return columns.badge_and_words("sent", _("active"), account.shown_why)
        label = _("paused") if account.is_active else _("off")
        return columns.badge_and_words("failed" if account.is_active else "rest", label, account.shown_why)

    @admin.display(description=gettext_lazy("server"))
    def server(self, account: Account) -> str:
        """Host and port."""
        return f"{account.host}:{account.port}"

    @admin.display(description=gettext_lazy("at rest"))
    def at_rest(self, account: Any) -> SafeString | int:
        """Messages that wait for a person, and the way to them."""
        count: int = account.shown_at_rest
        if not count:
            return count
        name = OutboxMessage._meta
        url = reverse(f"{self.admin_site.name}:{name.app_label}_{name.model_name}_changelist")
        return columns.link(f"{url}?{urlencode({'account__id__exact': account.pk, 'status': 'at_rest'})}", count)

    @admin.display(description=gettext_lazy("password"), boolean=True)
    def password_is_set(self, account: Account) -> bool:
        """Whether there is one."""
        return is_set(account, "password")

    @admin.display(description=gettext_lazy("OAuth access token"), boolean=True)
    def oauth_token_is_set(self, account: Account) -> bool:
        """Whether there is one."""
        return is_set(account, "oauth_token")

    @admin.display(description=gettext_lazy("OAuth client secret"), boolean=True)
    def oauth_client_secret_is_set(self, account: Account) -> bool:
        """Whether there is one."""
        return is_set(account, "oauth_client_secret")

    @admin.display(description=gettext_lazy("OAuth refresh token"), boolean=True)
    def oauth_refresh_token_is_set(self, account: Account) -> bool:
        """Whether there is one."""
        return is_set(account, "oauth_refresh_token")


@admin.register(Account)
class AccountAdmin(AccountAdminMixin, AccountAdminBase):
    """Accounts in the host's admin."""


def _presets() -> Iterator[dict[str, Any]]:
    """The providers by how one logs in, each with the query that fills the form in."""
    for name, values in PRESETS.items():
        plain = {"host": values["host"], "port": values["port"]}
        if name not in OAUTH_ONLY:
            yield {"name": name.capitalize(), "how": _("app password"), "query": urlencode(plain), **plain}
        if "oauth_provider" in values:
            yield {"name": name.capitalize(), "how": _("OAuth"), "query": urlencode(values), **plain}


def _with_fields(fieldsets: Any, replaced: dict[str, str], removed: set[str]) -> list[tuple[Any, dict[str, Any]]]:
    def names(fields: Iterable[Any]) -> list[Any]:
        flat = [names(one) if isinstance(one, (list, tuple)) else replaced.get(one, one) for one in fields]
        return [one for one in flat if not isinstance(one, str) or one not in removed]

    return [(title, {**options, "fields": names(options["fields"])}) for title, options in fieldsets]
