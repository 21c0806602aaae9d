"""``Account``: an SMTP account as a person configured it.  No worker writes this table."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from prx_email_django.models.account_validation import account_errors, credential_errors
from prx_email_django.models.choices import AuthMethod, OAuthProvider, Pipelining, Security
from prx_email_django.models.encrypted import DecryptionFailed, EncryptedTextField
from prx_email_django.models.managers import OutboxManager, outbox_alias
from prx_email_django.models.presets import preset_fields
from prx_email_django.models.runtime_state import AccountState

#: A change of one of these fields invalidates the runtime state, which workers got with the old values.
CREDENTIAL_FIELDS = (
    "host",
    "port",
    "security",
    "user",
    "auth_method",
    "password",
    "oauth_token",
    "oauth_token_expires_at",
    "oauth_provider",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_refresh_token",
    "oauth_tenant",
    "oauth_scope",
    "oauth_token_url",
    "oauth_callable",
)


class AccountQuerySet(models.QuerySet["Account"]):
    """Query set that fills in the derived fields in ``bulk_create`` too."""

    def bulk_create(self, objs: Iterable[Account], *args: Any, **kwargs: Any) -> list[Account]:
        """Create the accounts, with ``security`` and ``auth_method`` derived if they are empty."""
        accounts = list(objs)
        for account in accounts:
            account.fill_defaults()
        return super().bulk_create(accounts, *args, **kwargs)


class AccountManager(OutboxManager["Account"].from_queryset(AccountQuerySet)):  # type: ignore[misc]
    """``Account.objects``, in the database of the outbox."""

    @sensitive_variables()
    def from_preset(self, preset: str, *, name: str, user: str, **fields: Any) -> Account:
        """Create an account at a well-known provider: ``gmail``, ``outlook``, ``yahoo`` or ``fastmail``.

        ``email`` defaults to ``user``.  Give ``password=…`` (an app password), ``oauth_token=…`` or the fields of a
        token provider.

        Raises:
            ValueError: unknown preset.
            ValidationError: no credentials, credentials of two kinds, or of a kind that the provider does not have.
        """
        values = preset_fields(preset, name=name, user=user, **fields)
        self.model(**values).clean_secrets()
        account: Account = self.create(**values)
        return account


class Account(models.Model):
    """An SMTP account: server, credentials, sender and limits."""

    name = models.CharField(_("name"), max_length=100, unique=True)
    email = models.CharField(
        _("email address"), max_length=320, blank=True, help_text=_("The From address of messages that name none.")
    )
    display_name = models.CharField(_("display name"), max_length=200, blank=True)
    host = models.CharField(_("host"), max_length=255)
    port = models.PositiveIntegerField(
        _("port"), default=465, validators=[MinValueValidator(1), MaxValueValidator(65535)]
    )
    security = models.CharField(
        _("security"),
        max_length=10,
        choices=Security.choices,
        blank=True,
        help_text=_("Left empty: implicit TLS on port 465, STARTTLS on any other."),
    )
    user = models.CharField(_("user"), max_length=320, blank=True)
    auth_method = models.CharField(
        _("authentication"),
        max_length=10,
        choices=AuthMethod.choices,
        blank=True,
        help_text=_("Left empty: OAuth where only a token or a provider is given, else password."),
    )
    password = EncryptedTextField(_("password"), blank=True, default="")
    oauth_token = EncryptedTextField(_("OAuth access token"), blank=True, default="")
    oauth_token_expires_at = models.DateTimeField(_("OAuth token expires at"), null=True, blank=True)
    oauth_provider = models.CharField(
        _("OAuth provider"), max_length=10, choices=OAuthProvider.choices, blank=True, default=""
    )
    oauth_client_id = models.CharField(_("OAuth client id"), max_length=255, blank=True)
    oauth_client_secret = EncryptedTextField(_("OAuth client secret"), blank=True, default="")
    oauth_refresh_token = EncryptedTextField(_("OAuth refresh token"), blank=True, default="")
    oauth_tenant = models.CharField(_("OAuth tenant"), max_length=100, blank=True)
    oauth_scope = models.CharField(_("OAuth scope"), max_length=500, blank=True)
    oauth_token_url = models.CharField(_("OAuth token address"), max_length=500, blank=True)
    oauth_callable = models.CharField(
        _("OAuth callable"),
        max_length=255,
        blank=True,
        help_text=_("For the custom provider: a dotted path that OAUTH_CALLABLES lists."),
    )
    max_connections = models.PositiveSmallIntegerField(
        _("connections at once"),
        default=3,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text=_("Held by all workers on all machines together."),
    )
    max_messages_per_connection = models.PositiveIntegerField(
        _("messages per connection"), default=100, validators=[MinValueValidator(1)]
    )
    rate_limits = models.CharField(
        _("rate limits"),
        max_length=255,
        blank=True,
        help_text=_("For example “30/minute, 10000 recipients/day”. Empty: none."),
    )
    pipelining = models.CharField(_("pipelining"), max_length=10, choices=Pipelining.choices, default=Pipelining.AUTO)
    is_active = models.BooleanField(_("active"), default=True)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)

    objects = AccountManager()

    class Meta:
        verbose_name = _("account")
        verbose_name_plural = _("accounts")
        ordering = ("name",)
        base_manager_name = "objects"
        constraints = (
            models.CheckConstraint(
                condition=~Q(host=""), name="prx_account_host", violation_error_message=_("The host is empty.")
            ),
            models.CheckConstraint(
                condition=Q(port__gte=1, port__lte=65535),
                name="prx_account_port",
                violation_error_message=_("The port must be between 1 and 65535."),
            ),
            models.CheckConstraint(
                condition=Q(security__in=Security.values),
                name="prx_account_security",
                violation_error_message=_("The security is one of tls, starttls and none."),
            ),
            models.CheckConstraint(
                condition=(
                    (Q(auth_method="password", oauth_token="") & ~Q(user="") & ~Q(password=""))
                    | (
                        Q(auth_method="xoauth2", password="")
                        & ~Q(user="")
                        & (~Q(oauth_token="") | ~Q(oauth_provider=""))
                    )
                    | Q(auth_method="none", user="", password="", oauth_token="")
                ),
                name="prx_account_one_secret",
                violation_error_message=_(
                    "Exactly one of password and OAuth token must be set, with a user; "
                    "an unauthenticated relay (authentication “none”) has neither."
                ),
            ),
            models.CheckConstraint(
                condition=Q(max_connections__gte=1, max_messages_per_connection__gte=1),
                name="prx_account_limits",
                violation_error_message=_("At least one connection, and one message on each."),
            ),
            models.CheckConstraint(
                condition=Q(pipelining__in=Pipelining.values),
                name="prx_account_pipelining",
                violation_error_message=_("The pipelining is one of auto, full, envelope and off."),
            ),
            models.CheckConstraint(
                condition=Q(oauth_provider__in=OAuthProvider.values),
                name="prx_account_provider",
                violation_error_message=_("The OAuth provider is one of google, microsoft and custom."),
            ),
        )

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save; if the credentials have changed, delete the runtime state that belongs to the old ones."""
        self.fill_defaults()
        changed = not self._state.adding and self._credentials_changed()
        super().save(*args, **kwargs)
        if changed:
            AccountState.objects.forget_credentials(self.pk)

    def fill_defaults(self) -> None:
        """Derive ``security`` from the port, and ``auth_method`` from the secrets, if they are empty."""
        if not self.security:
            self.security = Security.for_port(self.port)
        if not self.auth_method:
            by_token = not self.password and bool(self.oauth_token or self.oauth_provider)
            self.auth_method = AuthMethod.XOAUTH2 if by_token else AuthMethod.PASSWORD

    def clean_fields(self, exclude: Any = None) -> None:
        """Fill in the derived fields before Django validates the fields."""
        self.fill_defaults()
        super().clean_fields(exclude=exclude)

    def clean(self) -> None:
        """Validate what the constraints check too, in readable messages, and what depends on the settings."""
        super().clean()
        if errors := account_errors(self):
            raise ValidationError(errors)

    def clean_secrets(self) -> None:
        """Validate the credentials alone; the constraints of the database check most of this too.

        Raises:
            ValidationError: with the messages by field.
        """
        self.fill_defaults()
        if errors := credential_errors(self):
            raise ValidationError(errors)

    def _credentials_changed(self) -> bool:
        stored = Account.objects.using(self._state.db or outbox_alias()).filter(pk=self.pk).first()
        if stored is None:
            return False
        try:
            return any(getattr(stored, name) != getattr(self, name) for name in CREDENTIAL_FIELDS)
        except DecryptionFailed:
            return True

    @property
    def paused_until(self) -> datetime | None:
        """The end of the pause; None with a ``pause_reason``: until a person resumes the account."""
        state = self._state_row()
        return state.paused_until if state else None

    @property
    def pause_reason(self) -> str:
        """The reason of the pause; empty if the account is not paused."""
        state = self._state_row()
        return state.pause_reason if state else ""

    @property
    def pause_code(self) -> str:
        """``connection``, ``tls``, ``auth``, ``token``, ``quota``, ``refusing``, ``person``; empty: no pause."""
        state = self._state_row()
        return state.pause_code if state else ""

    def _state_row(self) -> AccountState | None:
        try:
            return AccountState.objects.get(account_id=self.pk)
        except ObjectDoesNotExist:
            return None
