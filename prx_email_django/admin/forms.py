"""The account form, in which secrets are write-only, and the pause form."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.admin.widgets import AdminRadioSelect
from django.utils import timezone
from django.utils.html import escape
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_variables

from prx_email_django.admin.sign_in import SAVE_AND_CONNECT
from prx_email_django.models import Account
from prx_email_django.models.choices import AuthMechanism, AuthMethod, OAuthProvider, Security
from prx_email_django.models.encrypted import DecryptionFailed, EncryptedTextField, is_set
from prx_email_django.rules.references import reference
from prx_email_django.rules.text import MAX_COLUMN

if TYPE_CHECKING:
    AccountFormBase = forms.ModelForm[Account]
else:
    AccountFormBase = forms.ModelForm

#: The secrets of an account, in the order of the form.
SECRETS = tuple(field.name for field in Account._meta.concrete_fields if isinstance(field, EncryptedTextField))
#: Fields that decide where secrets and tokens are sent, and who is believed to be the server: if one changes, the
#: secrets must be entered again.
DESTINATION = ("host", "port", "security", "tls_ca_file", "user", "oauth_provider", "oauth_tenant", "oauth_token_url")
#: Paths of files on the server.
SERVER_FILES = ("tls_ca_file", "tls_cert_file", "tls_key_file")
#: The secrets that each method signs in with; those of the other methods are cleared when the method changes.
SECRETS_OF = {
    AuthMethod.PASSWORD: frozenset({"password"}),
    AuthMethod.XOAUTH2: frozenset(SECRETS) - {"password"},
    AuthMethod.NONE: frozenset[str](),
}
#: What the fields of a sign-in take; the model has no words for them.
OAUTH_HELP = {
    "oauth_tenant": gettext_lazy("The id or domain of your directory. Left empty: “common”."),
    "oauth_scope": gettext_lazy("Left empty: what the provider needs for SMTP."),
    "oauth_token_url": gettext_lazy(
        "Left empty: that of Google or Microsoft. Another server, and a national cloud of Microsoft, has its own."
    ),
}
#: The choices by which ``admin.css`` shows and hides fields, without a script.
RADIOS = {"auth_method": AuthMethod.choices, "oauth_provider": OAuthProvider.choices}


def zone_note() -> str:
    """Say in which time zone a form takes and shows times: the one that is active for this person."""
    return _("In the time zone %(zone)s.") % {"zone": timezone.get_current_timezone_name()}


def clear_box(name: str) -> str:
    """Return the name of the checkbox that clears a secret."""
    return f"clear_{name}"


class AccountForm(AccountFormBase):
    """Account form: an empty secret field keeps the secret, a checkbox clears it, a new destination requires it again.

    Every field carries the value that the page was opened with.  A value that another person or a script has written
    since then is not taken for a change and not overwritten.
    """

    clear_password = forms.BooleanField(label=gettext_lazy("Clear the password"), required=False)
    clear_oauth_token = forms.BooleanField(label=gettext_lazy("Clear the access token"), required=False)
    clear_oauth_client_secret = forms.BooleanField(label=gettext_lazy("Clear the client secret"), required=False)
    clear_oauth_refresh_token = forms.BooleanField(label=gettext_lazy("Clear the refresh token"), required=False)

    #: Whether this person may name variables, files and local services of the server.
    may_use_server = False

    class Meta:
        model = Account
        fields = "__all__"  # noqa: DJ007  (the admin's fieldsets name them)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Columns that change because the method does.
        self._follow_method: set[str] = set()
        self._show_radios()
        if "oauth_token_expires_at" in self.fields:
            self.fields["oauth_token_expires_at"].help_text = zone_note()
        for name in OAUTH_HELP.keys() & self.fields.keys():
            self.fields[name].help_text = OAUTH_HELP[name]
        for name in {"auth_mechanism", "max_in_flight"} & self.fields.keys():
            self.fields[name].required = False  # a form that does not know the field keeps its value
        for name, field in list(self.fields.items()):
            if name in SECRETS:
                self._describe(name, field)
            elif not name.startswith("clear_"):
                field.show_hidden_initial = not self.instance._state.adding

    @property
    def changed_columns(self) -> list[str]:
        """Return the columns that this form changes: edited, entered or cleared."""
        names = {name.removeprefix("clear_") for name in self.changed_data} | self._follow_method
        changed = [field.name for field in Account._meta.concrete_fields if field.name in names]
        return [*changed, "updated_at"] if changed else []

    @sensitive_variables()
    def clean(self) -> dict[str, Any]:
        """Keep changes that others made meanwhile, clear the chosen secrets, require secrets for a new destination."""
        data = super().clean() or self.cleaned_data
        if not self.instance._state.adding:
            self._keep_unchanged(data)
            self._leave_old_method(data)
            self._demand_secrets(data)
        if not self.may_use_server:
            self._refuse_server(data)
        self._wait_for_sign_in(data)
        for name in SECRETS:
            if not data.get(clear_box(name)):
                continue
            if data.get(name):
                self.add_error(name, _("Enter a new value or clear the stored value, not both."))
            setattr(self.instance, name, "")
        return data

    @sensitive_variables()
    def _refuse_server(self, data: dict[str, Any]) -> None:
        """Refuse what makes a worker use something of its server that this person did not name before.

        A worker sends the variable or file of a reference to the account's host, says of a path whether it exists, and
        asks an address of clear text, which can only be loopback.
        """
        values = {name: data.get(name) or "" for name in (*SECRETS, *SERVER_FILES, "oauth_token_url")}
        named = [name for name in SECRETS if reference(values[name])]
        named += [name for name in SERVER_FILES if values[name] and name in self.changed_data]
        if values["oauth_token_url"].lower().startswith("http:") and "oauth_token_url" in self.changed_data:
            named.append("oauth_token_url")
        for name in named:
            text = _(
                "Variables, files and local services of the server may be used only with the permission "
                "use_server_resources: ask an operator."
            )
            self.add_error(name, text)

    @sensitive_variables()
    def _wait_for_sign_in(self, data: dict[str, Any]) -> None:
        """“Save and connect” saves an account without a refresh token as inactive; the sign-in activates it."""
        name = "oauth_refresh_token"
        if SAVE_AND_CONNECT in self.data and not data.get(name) and not is_set(self.instance, name):
            self._reset("is_active", bool(data.get("is_active")))
            data["is_active"] = False

    def _show_radios(self) -> None:
        """Offer method and provider as radio buttons; a new account begins with the method that fits its preset."""
        for name, choices in RADIOS.items():
            if name in self.fields:
                self.fields[name].widget = AdminRadioSelect(attrs={"class": "radiolist"}, choices=choices)
                self.fields[name].help_text = ""
        if self.instance._state.adding and not self.initial.get("auth_method"):
            by_token = bool(self.initial.get("oauth_provider"))
            self.initial["auth_method"] = AuthMethod.XOAUTH2 if by_token else AuthMethod.PASSWORD

    def _describe(self, name: str, field: forms.Field) -> None:
        """Say whether the secret is set or a reference; a reference is no secret, and shown as it is."""
        if not is_set(self.instance, name):
            by_reference = _("Not set. Enter the value, or a reference to it: env:NAME or file:/path.")
            field.help_text = by_reference if self.may_use_server else _("Not set. Enter the value.")
            self.fields.pop(clear_box(name), None)
            return
        try:
            named = reference(getattr(self.instance, name))
        except DecryptionFailed:
            field.help_text = _("A value is stored, but the present keys cannot decrypt it: enter it again.")
            return
        if named is not None:
            text = _("Set by reference: %(reference)s. Leave the field empty to keep it.")
            field.help_text = escape(text % {"reference": named})
        else:
            field.help_text = _("A value is stored; it is never shown. Leave the field empty to keep it.")

    def _leave_old_method(self, data: dict[str, Any]) -> None:
        """After a change of the method, clear what only the old method needs: its fields are not shown any more."""
        method = data.get("auth_method")
        if "auth_method" not in self.changed_data or method not in SECRETS_OF:
            return
        for name in SECRETS:
            if name in self.fields and name not in SECRETS_OF[method] and not data.get(name):
                self._reset(name, is_set(self.instance, name))
                setattr(self.instance, name, "")
        if method == AuthMethod.NONE and "user" not in self.changed_data:
            self._reset("user", bool(data.get("user")))
            data["user"] = ""
        mechanism = data.get("auth_mechanism")
        if "auth_mechanism" not in self.changed_data and mechanism not in AuthMechanism.fitting(method):
            self._reset("auth_mechanism", mechanism not in (None, AuthMechanism.AUTO))
            data["auth_mechanism"] = AuthMechanism.AUTO

    def _reset(self, name: str, changes: bool) -> None:
        if changes:
            self._follow_method.add(name)

    def _keep_unchanged(self, data: dict[str, Any]) -> None:
        """Set each field that this person did not change to its stored value, not the opened page's."""
        changed_elsewhere = []
        for name in [name for name in data if name not in self.changed_data and name in self._stored_names]:
            stored = getattr(self.instance, name)
            if name in DESTINATION and data[name] != stored and (data[name] or name != "security"):
                changed_elsewhere.append(name)
            data[name] = stored
        if changed_elsewhere and any(data.get(name) for name in SECRETS):
            text = _(
                "Another person has changed %(fields)s since this page was opened. Check the new values, then save."
            )
            labels = ", ".join(str(self.fields[name].label) for name in changed_elsewhere)
            self.add_error(None, text % {"fields": labels})

    @property
    def _stored_names(self) -> set[str]:
        return {field.name for field in Account._meta.concrete_fields} - set(SECRETS)

    @sensitive_variables()
    def _demand_secrets(self, data: dict[str, Any]) -> None:
        changed = [str(self.fields[name].label) for name in self._changed_destinations(data)]
        if not changed:
            return
        for name in [secret for secret in SECRETS if secret in self.fields and is_set(self.instance, secret)]:
            if not data.get(name) and not data.get(clear_box(name)):
                text = _(
                    "%(fields)s changed. Enter this secret again: the stored value must not be sent to another server."
                )
                self.add_error(name, text % {"fields": ", ".join(changed)})

    def _changed_destinations(self, data: dict[str, Any]) -> Iterator[str]:
        for name in DESTINATION:
            if name not in self.fields or name not in data:
                continue
            wanted, stored = data[name], getattr(self.instance, name)
            if name == "security" and not wanted:
                wanted = Security.for_port(data.get("port"))
            if wanted != stored:
                yield name


class PauseForm(forms.Form):
    """Reason and end of a pause."""

    reason = forms.CharField(label=gettext_lazy("Reason"), max_length=MAX_COLUMN)
    until = forms.DateTimeField(
        label=gettext_lazy("Until"),
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Not when the class is made: the host's middleware may choose another zone for each person.
        self.fields["until"].help_text = " ".join((zone_note(), _("Leave empty to pause until a person resumes.")))

    def clean_until(self) -> datetime | None:
        """Return an aware instant in the future, or None."""
        until: datetime | None = self.cleaned_data["until"]
        if until is None:
            return None
        aware = timezone.make_aware(until) if timezone.is_naive(until) else until
        if aware <= timezone.now():
            raise forms.ValidationError(_("The end of the pause must be in the future."))
        return aware

    def first_error(self) -> str:
        """Return the first error, with the label of its field."""
        name, errors = next(iter(self.errors.items()))
        return f"{self.fields[name].label}: {errors[0]}"
