"""Accounts: list and form.  Secrets are never shown; buttons pause and resume an account."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import method_decorator
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from prx_email_django.admin import columns
from prx_email_django.admin.base import FastListMixin, ModelAdmin, changed_fieldsets, may_use_server, page_url_if_any
from prx_email_django.admin.check import SAVE_AND_CHECK, AccountCheckMixin
from prx_email_django.admin.forms import SECRETS, AccountForm, PauseForm, clear_box
from prx_email_django.admin.pauses import PauseActionsMixin, pause_lines
from prx_email_django.admin.sign_in import SignInMixin
from prx_email_django.models import Account, AccountState, ConnectionSlot, InboundMessage, OutboxMessage, RateWindow
from prx_email_django.models.conditions import AT_REST
from prx_email_django.models.encrypted import DecryptionFailed, is_set
from prx_email_django.models.presets import PRESETS
from prx_email_django.rules.references import reference
from prx_email_django.status.advice import advice
from prx_email_django.status.facts import account_facts
from prx_email_django.status.reasons import account_sentence, lasting_obstacle
from prx_email_django.status.stored_words import as_stored
from prx_email_django.store.db import clock_for

#: Deleted with their account without a permission of their own, because no person created these rows.
OWNED = (AccountState, ConnectionSlot, RateWindow, InboundMessage)


class AccountChangeList(ChangeList):
    """Adds state and counts to the accounts of a page; the number of queries is fixed."""

    def get_results(self, request: HttpRequest) -> None:
        """Set ``shown_reason``, ``shown_paused`` and ``shown_at_rest`` on each account."""
        super().get_results(request)
        accounts = list(self.result_list)
        now = clock_for(None).running
        facts = account_facts(accounts, now=now)
        failed = OutboxMessage.objects.filter(AT_REST, account_id__in=[account.pk for account in accounts])
        at_rest = dict(failed.order_by().values_list("account_id").annotate(Count("pk")))
        for account in accounts:
            account.shown_reason = account_sentence(facts[account.pk], now=now)
            account.shown_paused = bool(facts[account.pk].pause or facts[account.pk].outbox)
            account.shown_at_rest = at_rest.get(account.pk, 0)
        self.result_list = accounts


@sensitive_variables()
def _secret_in_words(account: Account, name: str) -> str:
    if not is_set(account, name):
        return _("not set")
    try:
        named = reference(getattr(account, name))
    except DecryptionFailed:
        return _("set, but it cannot be decrypted with the present keys")
    if named is not None:
        return _("reference: %(reference)s") % {"reference": named}
    return _("set in the settings") if account.is_from_settings else _("set")


def _is_set_column(name: str) -> Callable[[Any, Account], str]:
    """Return a column that shows whether a secret is set, or where it is kept, and never the secret."""
    label = next(field.verbose_name for field in Account._meta.concrete_fields if field.name == name)

    @admin.display(description=label)
    def column(self: Any, account: Account) -> str:
        return _secret_in_words(account, name)

    return column


class AccountAdminMixin(SignInMixin, AccountCheckMixin, PauseActionsMixin, FastListMixin):
    """List and form of accounts; derive from this class to add fields and columns."""

    form = AccountForm
    list_display = ("name", "state", "at_rest", "server", "user")
    list_filter = ("is_active", "auth_method")
    search_fields = ("name", "email", "host", "user")
    ordering = ("name",)
    fieldsets = (
        (gettext_lazy("How it signs in"), {"fields": ("auth_method",), "classes": ("outbox-method",)}),
        (gettext_lazy("Server"), {"fields": (("host", "port"), "security", "user")}),
        (gettext_lazy("Password"), {"fields": ("password", "clear_password"), "classes": ("outbox-for-password",)}),
        (
            gettext_lazy("OAuth"),
            {
                "classes": ("outbox-for-xoauth2",),
                "fields": (
                    "oauth_provider",
                    "oauth_client_id",
                    "oauth_client_secret",
                    "clear_oauth_client_secret",
                    "oauth_refresh_token",
                    "clear_oauth_refresh_token",
                    "oauth_token",
                    "oauth_token_expires_at",
                    "clear_oauth_token",
                    "oauth_tenant",
                    "oauth_scope",
                    "oauth_token_url",
                    "oauth_callable",
                ),
            },
        ),
        (gettext_lazy("Name and sender"), {"fields": ("name", ("email", "display_name"), "is_active")}),
        (
            gettext_lazy("Certificates and mechanism"),
            {"fields": ("tls_ca_file", "tls_cert_file", "tls_key_file", "auth_mechanism"), "classes": ("collapse",)},
        ),
        (
            gettext_lazy("Limits"),
            {
                "fields": (
                    "max_connections",
                    "max_messages_per_connection",
                    "rate_limits",
                    "pipelining",
                    "max_in_flight",
                )
            },
        ),
    )

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the form may be saved: an account that the settings declare is changed there."""
        is_declared = obj is not None and obj.is_from_settings
        return not is_declared and super().has_change_permission(request, obj)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """Return the form for this person: not everybody may use what belongs to the server."""
        form: Any = super().get_form(request, obj, change=change, **kwargs)
        form.may_use_server = may_use_server(request)
        return form

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return the list that adds state and counts."""
        return AccountChangeList

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Hide checkboxes of unset secrets; with view permission only, show whether a secret is set."""
        if obj is not None and not self.has_change_permission(request, obj):
            replaced = {name: f"{name}_is_set" for name in SECRETS}
            boxes = {clear_box(name) for name in SECRETS}
            shown = changed_fieldsets(super().get_fieldsets(request, obj), removed=boxes, replaced=replaced)
            return [(None, {"fields": ("source",)}), *shown] if obj.is_from_settings else shown
        unset = {clear_box(name) for name in SECRETS if obj is None or not is_set(obj, name)}
        return changed_fieldsets(super().get_fieldsets(request, obj), removed=unset)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Include the read-only fields that replace secrets, and the source."""
        return [*super().get_readonly_fields(request, obj), "source", *(f"{name}_is_set" for name in SECRETS)]

    @method_decorator(sensitive_post_parameters())
    @sensitive_variables()
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Keep the submitted values out of error reports."""
        return super().changeform_view(request, *args, **kwargs)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Show the form with the account's state and buttons, or with the presets for a new account."""
        obj = kwargs.get("obj")
        context["save_and_check"] = SAVE_AND_CHECK
        if obj is None:
            context.update(presets=list(_presets()))
        else:
            # A refused form has changed the account in memory only.
            stored = Account.objects.get(pk=obj.pk) if request.method == "POST" else obj
            now = clock_for(None).running
            facts = account_facts([stored], now=now)[stored.pk]
            with as_stored():
                hint = advice(account_sentence(facts, now=now))
            context.update(
                why=account_sentence(facts, now=now),
                advice=hint,
                is_paused=bool(obj.pause_reason),
                after_resume=lasting_obstacle(replace(facts, pause=None), now=now),
                pauses=pause_lines(obj.pause_records.all()),
                pause_form=PauseForm() if self.has_operate_permission(request, obj) else None,
            )
        return super().render_change_form(request, context, *args, **kwargs)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Fill in the fields of the preset that the address names."""
        initial: dict[str, Any] = dict(super().get_changeform_initial_data(request))
        preset = PRESETS.get(initial.pop("preset", ""))
        return initial if preset is None else {**preset.initial(), **initial}

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Write only the columns that this form changes."""
        if change:
            obj.save(update_fields=form.changed_columns)
        else:
            super().save_model(request, obj, form, change)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Protect an account that has messages, without loading them; delete the rows that the account owns with it."""
        kept = [account.name for account in objs if OutboxMessage.objects.filter(account_id=account.pk).exists()]
        if kept:
            return [], {}, set(), [_("messages of the account %(name)s") % {"name": name} for name in kept]
        deleted, counts, perms_needed, protected = super().get_deleted_objects(objs, request)
        owned = {str(model._meta.verbose_name) for model in OWNED}
        return deleted, counts, {name for name in perms_needed if str(name) not in owned}, protected

    @admin.display(description=gettext_lazy("state"))
    def state(self, account: Any) -> SafeString:
        """Show whether the account may send, and why not."""
        if account.is_active and not account.shown_paused:
            return columns.badge_and_text("sent", _("active"), account.shown_reason)
        label = _("paused") if account.is_active else _("inactive")
        return columns.badge_and_text("failed" if account.is_active else "rest", label, account.shown_reason)

    @admin.display(description=gettext_lazy("server"))
    def server(self, account: Account) -> str:
        """Show host and port."""
        return f"{account.host}:{account.port}"

    @admin.display(description=gettext_lazy("at rest"))
    def at_rest(self, account: Any) -> SafeString | int:
        """Show the number of messages at rest, with a link to their list."""
        count: int = account.shown_at_rest
        if not count:
            return count
        query = urlencode({"account__id__exact": account.pk, "status": "at_rest"})
        url = page_url_if_any(self, OutboxMessage, "changelist")
        return columns.link(f"{url}?{query}" if url else "", count)

    password_is_set = _is_set_column("password")
    oauth_token_is_set = _is_set_column("oauth_token")
    oauth_client_secret_is_set = _is_set_column("oauth_client_secret")
    oauth_refresh_token_is_set = _is_set_column("oauth_refresh_token")


@admin.register(Account)
class AccountAdmin(AccountAdminMixin, ModelAdmin):
    """Registers accounts in the admin site."""


def _presets() -> Iterator[dict[str, Any]]:
    """Return each provider and authentication method with the query string that fills in the form."""
    for name, preset in PRESETS.items():
        row = {"name": preset.label, "host": preset.host, "port": preset.port, "trap": preset.trap}
        if not preset.oauth_only:
            how = _("no login") if preset.login_optional else _("password")
            yield {**row, "how": how, "query": urlencode({"preset": name})}
        if preset.oauth_provider:
            query = urlencode({"preset": name, "oauth_provider": preset.oauth_provider})
            yield {**row, "how": _("OAuth"), "query": query}
