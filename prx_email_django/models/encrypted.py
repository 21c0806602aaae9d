"""``EncryptedTextField``: text that the database, dumps, pickles and ``repr`` hold as ciphertext only.

A value is stored as ``v1:`` and a Fernet token of the field's label and the text, so that a token that is moved into
another column cannot be decrypted there.  The empty text is stored as ``""``, so that constraints can check it.

A secret that only the settings hold is stored as ``settings:`` and a keyed hash, by which a change is noticed.

A model instance holds ciphertext too, which is decrypted when the attribute is read.  Only then ``DecryptionFailed`` is
raised, so that rows whose key is lost can still be listed, saved and given a new secret.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django import forms
from django.core.exceptions import FieldError, ValidationError
from django.db import models
from django.db.models.lookups import Exact, IsNull, Lookup
from django.db.models.query_utils import DeferredAttribute
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from prx_email_django.conf import outbox_settings

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    TextFieldBase = models.TextField[Any, str]
else:
    TextFieldBase = models.TextField

PREFIX = "v1:"
IN_SETTINGS = "settings:"
#: A Fernet token starts with its version and the high bytes of a time stamp: no password looks like this by chance.
_CIPHERTEXT = re.compile(r"v1:gAAAAA[\w-]{90,}={0,2}", re.ASCII)
_MARKER = re.compile(rf"{IN_SETTINGS}[0-9a-f]{{32}}")


class DecryptionFailed(ValidationError):
    """A stored secret cannot be decrypted: its key is missing, or the ciphertext belongs to another column.

    ``label`` names the field (``app.model.field``); the error holds neither text nor ciphertext.  It is a
    ``ValidationError``, so that a form shows it at the field and asks for the secret again.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        #: Whether the keys come from SECRET_KEY, since CREDENTIAL_KEYS is not set.
        self.by_secret_key = outbox_settings().key_source is None
        message = _("This cannot be decrypted with the keys in CREDENTIAL_KEYS: enter it again, or add the old key.")
        if self.by_secret_key:
            message = _(
                "This cannot be decrypted with SECRET_KEY: enter it again, or add the old key to SECRET_KEY_FALLBACKS."
            )
        super().__init__({label.rpartition(".")[2]: message})

    def __str__(self) -> str:
        if self.by_secret_key:
            return f"{self.label} cannot be decrypted with SECRET_KEY; is the old key missing in SECRET_KEY_FALLBACKS?"
        return f"{self.label} cannot be decrypted with the keys in CREDENTIAL_KEYS"


@functools.lru_cache(maxsize=4)
def _fernet(keys: tuple[bytes, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def _cipher() -> MultiFernet:
    return _fernet(outbox_settings().credential_keys)


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """Ciphertext of the field ``label``: ``values()`` returns it, and model instances hold it."""

    label: str
    stored: str = field(repr=False)

    def __str__(self) -> str:
        return "********"

    @sensitive_variables()
    def decrypt(self) -> str:
        """The text.

        Raises:
            DecryptionFailed: no key in force fits, or the ciphertext belongs to another field.
        """
        try:
            label, text = json.loads(_cipher().decrypt(self._token()))
        except (InvalidToken, ValueError, TypeError):
            raise DecryptionFailed(self.label) from None
        if label != self.label or not isinstance(text, str):
            raise DecryptionFailed(self.label)
        return text

    def _token(self) -> bytes:
        if not self.stored.startswith(PREFIX):
            raise InvalidToken
        return self.stored.removeprefix(PREFIX).encode()


@dataclass(frozen=True, slots=True)
class InSettings:
    """A secret that only the settings hold: ``values()`` returns it, and model instances hold it.

    ``text`` is the secret or a reference to it, in this process only: the database, pickles and ``repr`` hold the
    fingerprint.  It is empty where these settings do not declare the account.
    """

    fingerprint: str
    text: str = field(default="", repr=False, compare=False)

    def __str__(self) -> str:
        return "********"

    def __reduce__(self) -> tuple[type[InSettings], tuple[str]]:
        return InSettings, (self.fingerprint,)

    @property
    def stored(self) -> str:
        """What the database holds."""
        return IN_SETTINGS + self.fingerprint


class _TextInSettings(str):
    """The secret of the settings, which a raw save (``loaddata``) takes from the attribute: it must not be stored."""

    marker: InSettings

    def __new__(cls, marker: InSettings) -> _TextInSettings:
        made = super().__new__(cls, marker.text)
        made.marker = marker
        return made


@sensitive_variables()
def encrypt(text: str, *, label: str) -> Ciphertext:
    """Encrypt the text with the first key, for the field ``label`` (``app.model.field``)."""
    token = _cipher().encrypt(json.dumps([label, text]).encode())
    return Ciphertext(label=label, stored=PREFIX + token.decode())


def rotate(value: Ciphertext) -> Ciphertext:
    """Encrypt the text of a ciphertext again, with the first key.

    Write it only if nobody changed the row meanwhile:
    ``rows.filter(pk=pk, password=value).update(password=rotate(value))``.

    Raises:
        DecryptionFailed: see ``Ciphertext.decrypt``.
    """
    value.decrypt()  # refuses a token of another column
    return Ciphertext(label=value.label, stored=PREFIX + _cipher().rotate(value._token()).decode())


def is_current(value: Ciphertext) -> bool:
    """Whether the ciphertext was made with the first key.

    Raises:
        DecryptionFailed: see ``Ciphertext.decrypt``.
    """
    value.decrypt()
    try:
        Fernet(outbox_settings().credential_keys[0]).decrypt(value._token())
    except InvalidToken:
        return False
    return True


def is_set(instance: models.Model, name: str) -> bool:
    """Whether the encrypted field ``name`` is not empty; the value is not decrypted."""
    return bool(_stored_value(instance, name))


def _stored_value(instance: models.Model, name: str) -> object:
    """The value in the instance: ``""``, a ``Ciphertext``, an ``InSettings``, or an expression."""
    if name not in instance.__dict__:
        getattr(instance, name)  # a deferred field is fetched now
    return instance.__dict__[name]


class _SecretAttribute(DeferredAttribute):
    """Encrypts at every assignment, and decrypts at every access."""

    field: EncryptedTextField

    def __get__(self, instance: models.Model | None, cls: type[models.Model] | None = None) -> Any:
        value = super().__get__(instance, cls)
        if isinstance(value, InSettings):
            return _TextInSettings(value)
        return value.decrypt() if isinstance(value, Ciphertext) else value

    def __set__(self, instance: models.Model, value: object) -> None:
        instance.__dict__[self.field.attname] = self.field.encrypted(value)


class _StoredExact(Exact):
    """The lookup ``exact`` for the empty text or a ciphertext; a text cannot be searched for."""

    def get_prep_lookup(self) -> Any:
        if not isinstance(self.rhs, Ciphertext | InSettings) and self.rhs != "":
            raise FieldError("an encrypted field cannot be searched, except for the empty text or with isnull")
        return super().get_prep_lookup()


class EncryptedTextField(TextFieldBase):
    """Text that is stored encrypted, with ``CREDENTIAL_KEYS``; never null.

    Forms never show it, and do not change it if nothing is entered.  Assign ``""`` to clear it.
    """

    description = _("Encrypted text")
    descriptor_class = _SecretAttribute

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("null"):
            raise ValueError("an encrypted field must not be null; its unset value is the empty text")
        super().__init__(*args, **kwargs)

    @property
    def label(self) -> str:
        """The label that a ciphertext is bound to: ``app.model.field``, in lower case."""
        return f"{self.model._meta.label_lower}.{self.name}"

    def encrypted(self, value: object) -> object:
        """The value as a model instance holds it: text encrypted, ``None`` as ``""``, an expression unchanged."""
        if value is None or value == "":
            return ""
        if isinstance(value, InSettings):
            return value
        if isinstance(value, Ciphertext):
            return value if value.label == self.label else encrypt(value.decrypt(), label=self.label)
        return value if hasattr(value, "resolve_expression") else encrypt(str(value), label=self.label)

    def from_db_value(self, value: str | None, expression: object, connection: object) -> Ciphertext | InSettings | str:
        """The ciphertext, not decrypted: a row whose key is lost can be loaded."""
        if value and value.startswith(IN_SETTINGS):
            return InSettings(value.removeprefix(IN_SETTINGS))
        return Ciphertext(label=self.label, stored=value) if value else ""

    def get_prep_value(self, value: Any) -> Any:
        """The value for the database, in ``save``, ``bulk_create`` and ``update`` alike."""
        if isinstance(value, _TextInSettings):
            return value.marker.stored
        value = super(models.TextField, self).get_prep_value(value)
        if value is None:
            return None
        prepared = self.encrypted(value)
        return prepared.stored if isinstance(prepared, Ciphertext | InSettings) else prepared

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        """The ciphertext of the instance: saving decrypts nothing."""
        return _stored_value(model_instance, self.attname)

    def to_python(self, value: Any) -> Any:
        """A fixture's value: ciphertext, as ``value_to_string`` writes it, or text."""
        if isinstance(value, str) and _CIPHERTEXT.fullmatch(value):
            return Ciphertext(label=self.label, stored=value)
        if isinstance(value, str) and _MARKER.fullmatch(value):
            return InSettings(value.removeprefix(IN_SETTINGS))
        return "" if value is None else value

    def clean(self, value: Any, model_instance: models.Model | None) -> Any:
        """Validate a text; ciphertext that a person enters counts as text, so that stolen ciphertext is of no use."""
        self.validate(value, cast(models.Model, model_instance))
        self.run_validators(value)
        return value

    def value_to_string(self, obj: models.Model) -> str:
        """The ciphertext, for ``dumpdata``; ``loaddata`` needs its key, and encrypts it again with the first key."""
        value = _stored_value(obj, self.attname)
        return value.stored if isinstance(value, Ciphertext | InSettings) else ""

    def value_from_object(self, obj: models.Model) -> str:
        """The initial value of a form: always ``""``."""
        return ""

    def save_form_data(self, instance: models.Model, data: Any) -> None:
        """Save what was entered; an empty entry keeps the stored value."""
        if data:
            super().save_form_data(instance, data)

    def formfield(self, **kwargs: Any) -> Any:
        """A password input without an initial value."""
        if not isinstance(kwargs.get("widget"), forms.PasswordInput):  # the admin's text area would show the value
            kwargs["widget"] = forms.PasswordInput(attrs={"autocomplete": "new-password"}, render_value=False)
        return super().formfield(**{"strip": False, **kwargs})

    def get_lookup(self, lookup_name: str) -> type[Lookup[Any]] | None:
        """The lookups that ciphertext allows: ``exact`` and ``isnull``."""
        return {"exact": _StoredExact, "isnull": IsNull}.get(lookup_name)

    def get_transform(self, lookup_name: str) -> None:
        """None: ciphertext has no transforms."""

    def get_db_prep_value(self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False) -> Any:
        """The ciphertext; a value that a lookup has prepared is ciphertext already."""
        return value if prepared else self.get_prep_value(value)
