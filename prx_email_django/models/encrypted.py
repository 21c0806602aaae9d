"""``EncryptedTextField``: text that the database, dumps, pickles and ``repr`` hold as ciphertext only.

Stored as ``v1:`` and a Fernet token of the field's label and the text, so that a token moved into another column does
not open there; the empty text is stored as ``""``, for constraints to see.  A model's instance holds ciphertext too:
the text exists only where an attribute is read.  What can't be opened raises ``DecryptionFailed`` at that moment, so
rows with a lost key can still be listed, saved and given a new secret.
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
#: A Fernet token starts with its version and the high octets of a time stamp: no password looks like this by chance.
_SEALED = re.compile(r"v1:gAAAAA[\w-]{90,}={0,2}", re.ASCII)


class DecryptionFailed(ValidationError):
    """A stored secret can't be opened: its key is gone, or it belongs to another column.

    ``label`` names the field (``app.model.field``); neither text nor ciphertext is told.  A ``ValidationError``, so
    that a form says it at the field and asks for the secret anew.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        #: Where keys are missing: no key of CREDENTIAL_KEYS is, where that is not set.
        self.by_secret_key = outbox_settings().key_source is None
        message = _("Can't be decrypted with the keys in CREDENTIAL_KEYS: enter it anew, or bring the old key back.")
        if self.by_secret_key:
            message = _(
                "Can't be decrypted with SECRET_KEY: enter it anew, or add the old SECRET_KEY to SECRET_KEY_FALLBACKS."
            )
        super().__init__({label.rpartition(".")[2]: message})

    def __str__(self) -> str:
        if self.by_secret_key:
            return f"{self.label} can't be decrypted with SECRET_KEY: is the old one missing in SECRET_KEY_FALLBACKS?"
        return f"{self.label} can't be decrypted with the keys in CREDENTIAL_KEYS"


@functools.lru_cache(maxsize=4)
def _fernet(keys: tuple[bytes, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def _cipher() -> MultiFernet:
    return _fernet(outbox_settings().credential_keys)


@dataclass(frozen=True, slots=True)
class Sealed:
    """Ciphertext of the field ``label``; what ``values()`` returns, and what an instance holds."""

    label: str
    stored: str = field(repr=False)

    def __str__(self) -> str:
        return "********"

    @sensitive_variables()
    def open(self) -> str:
        """Return the text.  Raises ``DecryptionFailed``."""
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


@sensitive_variables()
def seal(text: str, *, label: str) -> Sealed:
    """Return ``text`` encrypted with the first key, for the field ``label`` (``app.model.field``)."""
    token = _cipher().encrypt(json.dumps([label, text]).encode())
    return Sealed(label=label, stored=PREFIX + token.decode())


def rotate(value: Sealed) -> Sealed:
    """Return the same text encrypted with the first key.  Raises ``DecryptionFailed``.

    Write it where nobody was faster: ``rows.filter(pk=pk, password=value).update(password=rotate(value))``.
    """
    value.open()  # a token of another column is not worth a new key
    return Sealed(label=value.label, stored=PREFIX + _cipher().rotate(value._token()).decode())


def is_set(instance: models.Model, name: str) -> bool:
    """Return whether the encrypted field ``name`` holds anything, without opening it."""
    return bool(_held(instance, name))


def _held(instance: models.Model, name: str) -> object:
    """Return what the instance holds: ``""``, a ``Sealed``, or an expression."""
    if name not in instance.__dict__:
        getattr(instance, name)  # deferred: fetched now
    return instance.__dict__[name]


class _SecretAttribute(DeferredAttribute):
    """Seals what is assigned, and opens what is read, each time anew."""

    field: EncryptedTextField

    def __get__(self, instance: models.Model | None, cls: type[models.Model] | None = None) -> Any:
        value = super().__get__(instance, cls)
        return value.open() if isinstance(value, Sealed) else value

    def __set__(self, instance: models.Model, value: object) -> None:
        instance.__dict__[self.field.attname] = self.field.sealed(value)


class _StoredExact(Exact):
    """``=`` to the empty text, or to ciphertext just read; no text can be searched for."""

    def get_prep_lookup(self) -> Any:
        if not isinstance(self.rhs, Sealed) and self.rhs != "":
            raise FieldError("an encrypted field can't be searched: only for the empty text, or with isnull")
        return super().get_prep_lookup()


class EncryptedTextField(TextFieldBase):
    """Text that is encrypted at rest with ``CREDENTIAL_KEYS``; never null.

    Forms never show it, and leave it as it is where nothing was typed: assign ``""`` to clear it.
    """

    description = _("Encrypted text")
    descriptor_class = _SecretAttribute

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("null"):
            raise ValueError("an encrypted field is never null: unset is the empty text")
        super().__init__(*args, **kwargs)

    @property
    def label(self) -> str:
        """What a ciphertext is bound to: ``app.model.field``, in lower case."""
        return f"{self.model._meta.label_lower}.{self.name}"

    def sealed(self, value: object) -> object:
        """Return ``value`` as an instance holds it: text encrypted, ``None`` as ``""``, anything else as it is."""
        if value is None or value == "":
            return ""
        if isinstance(value, Sealed):
            return value if value.label == self.label else seal(value.open(), label=self.label)
        return value if hasattr(value, "resolve_expression") else seal(str(value), label=self.label)

    def from_db_value(self, value: str | None, expression: object, connection: object) -> Sealed | str:
        """Leave it closed: a row with a lost key can be loaded."""
        return Sealed(label=self.label, stored=value) if value else ""

    def get_prep_value(self, value: Any) -> Any:
        """Return what is stored, for ``save``, ``bulk_create`` and ``update`` alike."""
        value = super(models.TextField, self).get_prep_value(value)
        if value is None:
            return None
        prepared = self.sealed(value)
        return prepared.stored if isinstance(prepared, Sealed) else prepared

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        """Return the ciphertext as it is held: saving opens nothing."""
        return _held(model_instance, self.attname)

    def to_python(self, value: Any) -> Any:
        """Read a fixture's value: ciphertext as ``value_to_string`` wrote it, or text."""
        if isinstance(value, str) and _SEALED.fullmatch(value):
            return Sealed(label=self.label, stored=value)
        return "" if value is None else value

    def clean(self, value: Any, model_instance: models.Model | None) -> Any:
        """Validate text; ciphertext that a person typed in is text too, else a stolen one could be put to use."""
        self.validate(value, cast(models.Model, model_instance))
        self.run_validators(value)
        return value

    def value_to_string(self, obj: models.Model) -> str:
        """Return the ciphertext, for ``dumpdata``; ``loaddata`` needs its key, and encrypts with the first one."""
        value = _held(obj, self.attname)
        return value.stored if isinstance(value, Sealed) else ""

    def value_from_object(self, obj: models.Model) -> str:
        """Return ``""``: what a form starts from."""
        return ""

    def save_form_data(self, instance: models.Model, data: Any) -> None:
        """Take what was typed; nothing typed keeps what is stored."""
        if data:
            super().save_form_data(instance, data)

    def formfield(self, **kwargs: Any) -> Any:
        """Return a password input that is never filled in."""
        if not isinstance(kwargs.get("widget"), forms.PasswordInput):  # the admin's would show it
            kwargs["widget"] = forms.PasswordInput(attrs={"autocomplete": "new-password"}, render_value=False)
        return super().formfield(**{"strip": False, **kwargs})

    def get_lookup(self, lookup_name: str) -> type[Lookup[Any]] | None:
        """Return the few lookups that ciphertext allows."""
        return {"exact": _StoredExact, "isnull": IsNull}.get(lookup_name)

    def get_transform(self, lookup_name: str) -> None:
        """Return None: nothing can be computed from ciphertext."""

    def get_db_prep_value(self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False) -> Any:
        """Return ciphertext; what a lookup has prepared is ciphertext already."""
        return value if prepared else self.get_prep_value(value)
