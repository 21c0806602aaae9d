"""``Account``: an SMTP account as a person configured it.  No worker writes this table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar, Self

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from prx_email_django.conf.account_url import PORTS
from prx_email_django.models.account_validation import (
    KEY_WITHOUT_CERTIFICATE,
    MECHANISM_FITS_NOT,
    NO_LOGIN,
    NO_USER,
    PASSWORD_OR_TOKEN,
    account_errors,
)
from prx_email_django.models.choices import (
    AccountSource,
    AuthMechanism,
    AuthMethod,
    OAuthProvider,
    Pipelining,
    Security,
)
from prx_email_django.models.declared import SETTINGS, apply_settings
from prx_email_django.models.derived import AuthMethodField, DerivedField, SavedAtField, SecurityField, SenderField
from prx_email_django.models.encrypted import DecryptionFailed, EncryptedTextField, is_set
from prx_email_django.models.managers import OutboxManager, OutboxModel, outbox_alias
from prx_email_django.models.presets import preset_fields
from prx_email_django.models.runtime_state import AccountState

#: A change of one of these fields invalidates the runtime state, which workers got with the old values.
CREDENTIAL_FIELDS = (
    "host",
    "port",
    "security",
    "user",
    "auth_method",
    "auth_mechanism",
    "tls_ca_file",
    "tls_cert_file",
    "tls_key_file",
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
#: Fields that name the grant: a rotated refresh token belongs to it, whatever other credentials change.
GRANT_FIELDS = (
    "oauth_provider",
    "oauth_client_id",
    "oauth_refresh_token",
    "oauth_tenant",
    "oauth_token_url",
)


class AccountManager(OutboxManager["Account"]):
    """``Account.objects``, in the database of the outbox; a migration has it too."""

    use_in_migrations = True

    def get_by_natural_key(self, name: str) -> Account:
        """The account of this name, for fixtures that name an account in place of its number."""
        return self.get(name=name)

    @sensitive_variables()
    def from_preset(
        self, preset: str, *, name: str, user: str = "", region: str | None = None, **fields: Any
    ) -> Account:
        """Create an account at a well-known provider; ``docs/reference/providers.md`` lists the presets.

        Give ``password=…`` (mostly an app password), ``oauth_token=…`` or the fields of a token provider.  ``region``:
        for ``ses``, and for ``mailgun``, ``sendgrid`` and ``zoho`` where the account is not in their usual region.

        Raises:
            ValueError: unknown preset.
            ValidationError: the account could not work: no credentials, credentials of two kinds, of a kind that the
                provider does not have, or incomplete; no region or sender where one is needed; a name that is taken.
        """
        account = self.model(**preset_fields(preset, region=region, name=name, user=user, **fields))
        account.full_clean(validate_constraints=False)
        if errors := account_errors(account):  # the historical model of a migration has no clean()
            raise ValidationError(errors)
        account.validate_constraints()
        account.save(using=self._db, force_insert=True)
        return account


def _constraint(name: str, condition: Q, message: Any) -> models.CheckConstraint:
    return models.CheckConstraint(condition=condition, name=name, violation_error_message=message)


class Account(OutboxModel):
    """An SMTP account: server, credentials, sender and limits."""

    name = models.CharField(_("name"), max_length=100, unique=True)
    email = SenderField(
        _("email address"),
        max_length=320,
        blank=True,
        help_text=_(
            "The From address of messages that name none. Left empty: the user, if that is an address, else "
            "DEFAULT_FROM_EMAIL."
        ),
    )
    display_name = models.CharField(_("display name"), max_length=200, blank=True)
    host = models.CharField(_("host"), max_length=255)
    port = models.PositiveIntegerField(
        _("port"), default=PORTS["tls"], validators=[MinValueValidator(1), MaxValueValidator(65535)]
    )
    security = SecurityField(
        _("security"),
        max_length=10,
        choices=Security.choices,
        blank=True,
        help_text=_("Left empty: implicit TLS on port 465, STARTTLS on any other."),
    )
    user = models.CharField(_("user"), max_length=320, blank=True)
    auth_method = AuthMethodField(
        _("authentication"),
        max_length=10,
        choices=AuthMethod.choices,
        blank=True,
        help_text=_("Left empty: OAuth where only a token or a provider is given, else password."),
    )
    auth_mechanism = models.CharField(
        _("mechanism"),
        max_length=15,
        choices=AuthMechanism.choices,
        default=AuthMechanism.AUTO,
        help_text=_("Automatic: those that the server offers, until it accepts one of them."),
    )
    tls_ca_file = models.CharField(
        _("certificate authorities"),
        max_length=500,
        blank=True,
        default="",
        help_text=_("Path of a PEM file; its authorities are added to those of the system."),
    )
    tls_cert_file = models.CharField(
        _("client certificate"),
        max_length=500,
        blank=True,
        default="",
        help_text=_("Path of a PEM file with the certificate and its chain, for servers that demand one."),
    )
    tls_key_file = models.CharField(
        _("client key"),
        max_length=500,
        blank=True,
        default="",
        help_text=_("Path of a PEM file, not encrypted. Left empty: the key is in the file of the certificate."),
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
    max_in_flight = models.PositiveSmallIntegerField(
        _("messages unanswered at once"),
        default=4,
        validators=[MinValueValidator(1), MaxValueValidator(32)],
        help_text=_(
            "On one connection, where the server offers CHUNKING. Messages that must not be sent twice go alone."
        ),
    )
    is_active = models.BooleanField(_("active"), default=True)
    source = models.CharField(
        _("source"),
        max_length=10,
        choices=AccountSource.choices,
        blank=True,
        default=AccountSource.PERSON,
        editable=False,
        help_text=_("Whether a person or the settings say what this account is."),
    )
    created_at = SavedAtField(_("created at"), auto_now_add=True)
    updated_at = SavedAtField(_("updated at"), auto_now=True)

    #: Columns of the row that are not as the settings declare them, by ``models.declared.apply_settings``.
    settings_differ: Mapping[str, bool] = MappingProxyType({})

    objects: ClassVar[AccountManager] = AccountManager()

    class Meta(OutboxModel.Meta):
        verbose_name = _("account")
        verbose_name_plural = _("accounts")
        ordering = ("name",)
        constraints = (
            _constraint("account_host_is_not_empty", ~Q(host=""), _("The host is empty.")),
            _constraint(
                "account_port_is_from_1_to_65535",
                Q(port__gte=1, port__lte=65535),
                _("The port must be between 1 and 65535."),
            ),
            _constraint(
                "account_security_is_tls_starttls_or_none",
                Q(security__in=Security.values),
                _("The security is one of tls, starttls and none."),
            ),
            _constraint(
                "account_authentication_is_known",
                Q(auth_method__in=AuthMethod.values),
                _("The authentication is one of password, xoauth2 and none."),
            ),
            _constraint(
                "account_has_password_or_token_not_both",
                (Q(auth_method="password", oauth_token="") & ~Q(password=""))
                | (Q(auth_method="xoauth2", password="") & (~Q(oauth_token="") | ~Q(oauth_provider="")))
                | ~Q(auth_method__in=("password", "xoauth2")),
                PASSWORD_OR_TOKEN,
            ),
            _constraint("account_login_has_a_user", ~Q(user="") | Q(auth_method="none"), NO_USER),
            _constraint(
                "account_without_login_has_no_user_or_secret",
                ~Q(auth_method="none") | Q(user="", password="", oauth_token=""),
                NO_LOGIN,
            ),
            _constraint(
                "account_mechanism_fits_authentication",
                (
                    Q(auth_mechanism="auto")
                    | Q(auth_method="password", auth_mechanism__in=AuthMechanism.fitting("password"))
                    | Q(auth_method="xoauth2", auth_mechanism__in=AuthMechanism.fitting("xoauth2"))
                ),
                MECHANISM_FITS_NOT,
            ),
            _constraint(
                "account_client_key_has_certificate", Q(tls_key_file="") | ~Q(tls_cert_file=""), KEY_WITHOUT_CERTIFICATE
            ),
            _constraint(
                "account_has_at_least_one_connection_and_message",
                Q(max_connections__gte=1, max_messages_per_connection__gte=1),
                _("At least one connection, and one message on each."),
            ),
            _constraint(
                "account_pipelining_is_known",
                Q(pipelining__in=Pipelining.values),
                _("The pipelining is one of auto, chunked, full, envelope and off."),
            ),
            _constraint(
                "account_messages_in_flight_are_from_1_to_32",
                Q(max_in_flight__gte=1, max_in_flight__lte=32),
                _("Between 1 and 32 messages may be unanswered at once."),
            ),
            _constraint(
                "account_oauth_provider_is_known",
                Q(oauth_provider__in=OAuthProvider.values),
                _("The OAuth provider is one of google, microsoft and custom."),
            ),
        )

    def __str__(self) -> str:
        return self.name

    def natural_key(self) -> tuple[str]:
        """The name, by which fixtures may name the account."""
        return (self.name,)

    @classmethod
    def from_db(cls, db: str | None, field_names: Collection[str], values: Collection[Any], **kwargs: Any) -> Self:
        """Read a row; an account of the settings has their values, whatever the row says."""
        account = super().from_db(db, field_names, values, **kwargs)
        account.settings_differ = apply_settings(account)
        return account

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save; delete the runtime state that belongs to changed credentials, and the pause of a corrected account."""
        adding = self._state.adding
        changed = set() if adding else self._changed_credentials()
        super().save(*args, **kwargs)
        if changed:
            AccountState.objects.forget_credentials(self.pk, keep_refresh_token=changed.isdisjoint(GRANT_FIELDS))
        elif not adding:
            AccountState.objects.forget_misconfiguration(self.pk)

    def clean_fields(self, exclude: Any = None) -> None:
        """Fill in the derived fields before Django validates the fields."""
        for field in self._meta.concrete_fields:
            if isinstance(field, DerivedField):
                setattr(self, field.attname, getattr(self, field.attname))
        super().clean_fields(exclude=exclude)

    def clean(self) -> None:
        """Validate what the constraints check too, in readable messages, and what depends on the settings."""
        super().clean()
        if errors := account_errors(self):
            raise ValidationError(errors)

    def _changed_credentials(self) -> set[str]:
        """Names of the credentials that saving will change; a secret that cannot be decrypted counts as changed."""
        stored = Account.objects.using(self._state.db or outbox_alias()).filter(pk=self.pk).first()
        if stored is None:
            return set()
        by_settings = {name for name, is_changed in stored.settings_differ.items() if is_changed}
        return {name for name in CREDENTIAL_FIELDS if name in by_settings or self._differs(stored, name)}

    @property
    def is_from_settings(self) -> bool:
        """Whether the settings say what this account is."""
        return self.source == SETTINGS

    @property
    def awaits_sign_in(self) -> bool:
        """Whether it is inactive and has no other way to a token than the sign-in of a person, which activates it."""
        if self.is_active or not self.oauth_provider or self.oauth_callable:
            return False
        names_server = bool(self.oauth_tenant or self.oauth_token_url) and self.oauth_provider != OAuthProvider.GOOGLE
        is_application = names_server and is_set(self, "oauth_client_secret")
        return not (is_application or is_set(self, "oauth_token") or is_set(self, "oauth_refresh_token"))

    def logs_in_as(self, other: Account) -> bool:
        """Whether it connects and logs in as the other one: what workers learn with one is true of the other."""
        return not any(self._differs(other, name) for name in CREDENTIAL_FIELDS)

    def _differs(self, stored: Account, name: str) -> bool:
        try:
            return bool(getattr(stored, name) != getattr(self, name))
        except DecryptionFailed:
            return True

    @property
    def paused_until(self) -> datetime | None:
        """The end of the pause; None with a ``pause_reason``: until a person resumes the account."""
        return self._state_row().paused_until

    @property
    def pause_reason(self) -> str:
        """The reason of the pause; empty if the account is not paused."""
        return self._state_row().pause_reason

    @property
    def pause_code(self) -> str:
        """Why it is paused: empty, or a trouble of ``rules.outcomes.Trouble``, ``refusing`` or ``person``."""
        return self._state_row().pause_code

    def _state_row(self) -> AccountState:
        return AccountState.objects.filter(account_id=self.pk).first() or AccountState()
