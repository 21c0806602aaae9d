"""The account form, in which secrets are write-only, and the form of a pause."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django import forms
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_variables

from prx_email_django.models import Account
from prx_email_django.models.choices import Security
from prx_email_django.models.encrypted import EncryptedTextField, is_set
from prx_email_django.rules.text import MAX_COLUMN

if TYPE_CHECKING:
    AccountFormBase = forms.ModelForm[Account]
else:
    AccountFormBase = forms.ModelForm

#: The secrets of an account, in the order of the form.
SECRETS = tuple(field.name for field in Account._meta.concrete_fields if isinstance(field, EncryptedTextField))
#: Where secrets, or tokens that were had with them, are sent: a change of one demands them anew.
DESTINATION = ("host", "port", "security", "user", "oauth_provider", "oauth_tenant", "oauth_token_url")


def clear_box(name: str) -> str:
    """The name of the box that clears a secret."""
    return f"clear_{name}"


class AccountForm(AccountFormBase):
    """Nothing typed into a secret keeps it; a box clears it; a new destination demands it anew.

    Every field carries the value that the page was opened with, so that what somebody else, or a script, has written
    meanwhile is neither taken for a change nor written back.
    """

    clear_password = forms.BooleanField(label=gettext_lazy("Clear the password"), required=False)
    clear_oauth_token = forms.BooleanField(label=gettext_lazy("Clear the access token"), required=False)
    clear_oauth_client_secret = forms.BooleanField(label=gettext_lazy("Clear the client secret"), required=False)
    clear_oauth_refresh_token = forms.BooleanField(label=gettext_lazy("Clear the refresh token"), required=False)

    class Meta:
        model = Account
        fields = "__all__"  # noqa: DJ007  (the admin names them)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, field in list(self.fields.items()):
            if name in SECRETS:
                self._describe(name, field)
            elif not name.startswith("clear_"):
                field.show_hidden_initial = not self.instance._state.adding

    @property
    def changed_columns(self) -> list[str]:
        """The columns that this form changes: those edited, typed or cleared."""
        names = {name.removeprefix("clear_") for name in self.changed_data}
        changed = [field.name for field in Account._meta.concrete_fields if field.name in names]
        return [*changed, "updated_at"] if changed else []

    @sensitive_variables()
    def clean(self) -> dict[str, Any]:
        """Take over what others changed meanwhile, clear what is to be cleared, demand what must be typed anew."""
        data = super().clean() or self.cleaned_data
        if not self.instance._state.adding:
            self._keep_unchanged(data)
            self._demand_secrets(data)
        for name in SECRETS:
            if not data.get(clear_box(name)):
                continue
            if data.get(name):
                self.add_error(name, _("Either type a new one or clear it, not both."))
            setattr(self.instance, name, "")
        return data

    def _describe(self, name: str, field: forms.Field) -> None:
        if self.instance._state.adding:
            self.fields.pop(clear_box(name), None)
            return
        if is_set(self.instance, name):
            field.help_text = _("A value is stored and never shown. Leave it empty to keep it.")
        else:
            field.help_text = _("Not set.")
            self.fields.pop(clear_box(name), None)

    def _keep_unchanged(self, data: dict[str, Any]) -> None:
        """A field that this person left alone has the stored value, whatever the page was opened with."""
        moved = []
        for name in [name for name in data if name not in self.changed_data and name in self._stored_names]:
            stored = getattr(self.instance, name)
            if name in DESTINATION and data[name] != stored and (data[name] or name != "security"):
                moved.append(name)
            data[name] = stored
        if moved and any(data.get(name) for name in SECRETS):
            text = _("Somebody has changed %(fields)s since this page was opened: look at it again before you save.")
            labels = ", ".join(str(self.fields[name].label) for name in moved)
            self.add_error(None, text % {"fields": labels})

    @property
    def _stored_names(self) -> set[str]:
        return {field.name for field in Account._meta.concrete_fields} - set(SECRETS)

    @sensitive_variables()
    def _demand_secrets(self, data: dict[str, Any]) -> None:
        changed = [str(self.fields[name].label) for name in self._changed_destinations(data)]
        if not changed:
            return
        for name in [one for one in SECRETS if one in self.fields and is_set(self.instance, one)]:
            if not data.get(name) and not data.get(clear_box(name)):
                text = _("%(fields)s changed: type this anew, or the stored value would go to another server.")
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
    """Why, and until when."""

    reason = forms.CharField(label=gettext_lazy("Reason"), max_length=MAX_COLUMN)
    until = forms.DateTimeField(
        label=gettext_lazy("Until"),
        required=False,
        help_text=gettext_lazy("Empty: until somebody resumes it."),
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )

    def clean_until(self) -> datetime | None:
        """An aware instant in the future, or none."""
        until: datetime | None = self.cleaned_data["until"]
        if until is None:
            return None
        aware = timezone.make_aware(until) if timezone.is_naive(until) else until
        if aware <= timezone.now():
            raise forms.ValidationError(_("The end of the pause is in the past."))
        return aware

    def first_error(self) -> str:
        """The first thing that is wrong, with its field."""
        name, errors = next(iter(self.errors.items()))
        return f"{self.fields[name].label}: {errors[0]}"
