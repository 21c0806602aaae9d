"""Encrypted text: it opens where it belongs, and shows itself nowhere."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django import forms
from django.core.exceptions import FieldError, ValidationError
from django.db import connection, models
from django.db.models import Q
from django.db.models.sql.query import Query
from django.test import override_settings
from django.test.utils import isolate_apps
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.models.encrypted import Ciphertext, DecryptionFailed, EncryptedTextField, encrypt, is_set, rotate

LABEL = "prx_email_django.safe.secret"
OLD, NEW = Fernet.generate_key(), Fernet.generate_key()

with isolate_apps("prx_email_django"):

    class Safe(models.Model):
        secret = EncryptedTextField(blank=True, default="")
        other = EncryptedTextField(blank=True, default="")

        class Meta:
            app_label = "prx_email_django"

        def __str__(self) -> str:
            return "a safe"


def keys(*given_keys: bytes) -> override_settings:
    return override_settings(PRX_EMAIL={"CREDENTIAL_KEYS": list(given_keys)})


def stored(instance: models.Model, name: str = "secret") -> str:
    value = instance.__dict__[name]
    return value.stored if isinstance(value, Ciphertext) else value


@given(st.text(min_size=1))
def test_every_text_comes_back_and_none_is_stored_as_it_is(text: str) -> None:
    ciphertext = encrypt(text, label=LABEL)
    assert ciphertext.decrypt() == text
    assert ciphertext.stored.startswith("v1:gAAAAA")
    assert encrypt(text, label=LABEL).stored != ciphertext.stored


def test_the_empty_text_stays_empty_for_constraints_to_see() -> None:
    safe = Safe(secret="", other=None)
    assert (stored(safe), stored(safe, "other"), safe.secret, safe.other) == ("", "", "", "")
    assert Safe._meta.get_field("secret").get_prep_value("") == ""


def test_an_instance_behaves_as_if_it_held_text() -> None:
    safe = Safe(secret="hunter2")
    assert safe.secret == "hunter2"
    safe.secret = "another"
    assert safe.secret == "another"
    assert is_set(safe, "secret")
    assert not is_set(safe, "other")


def test_no_copy_dump_or_repr_of_an_instance_holds_the_text() -> None:
    safe = Safe(secret="hunter2")
    dumped = pickle.dumps(safe.__dict__["secret"])
    assert b"hunter2" not in dumped
    assert pickle.loads(dumped).decrypt() == "hunter2"
    assert copy.deepcopy(safe.__dict__["secret"]).decrypt() == "hunter2"
    for shown in (repr(safe), repr(vars(safe)), str(safe.__dict__["secret"]), f"{safe.__dict__['secret']}"):
        assert "hunter2" not in shown
        assert stored(safe) not in shown
    assert Safe._meta.get_field("secret").value_to_string(safe) == stored(safe)


def test_ciphertext_moved_into_another_column_does_not_open() -> None:
    safe = Safe(secret="hunter2")
    field = Safe._meta.get_field("other")
    safe.other = field.from_db_value(stored(safe), None, connection)
    with pytest.raises(DecryptionFailed, match=r"prx_email_django\.safe\.other"):
        _ = safe.other


def test_a_lost_key_is_missed_where_it_was() -> None:
    safe = Safe(secret="hunter2")
    with override_settings(SECRET_KEY="another"), pytest.raises(DecryptionFailed, match="SECRET_KEY_FALLBACKS") as lost:
        _ = safe.secret
    assert "SECRET_KEY_FALLBACKS" in str(lost.value.message_dict["secret"])
    assert "CREDENTIAL_KEYS" not in str(lost.value) + str(lost.value.message_dict)
    with keys(Fernet.generate_key()), pytest.raises(DecryptionFailed, match="in CREDENTIAL_KEYS") as lost:
        _ = safe.secret
    assert "CREDENTIAL_KEYS" in str(lost.value.message_dict["secret"])
    assert "SECRET_KEY" not in str(lost.value) + str(lost.value.message_dict)


def test_code_that_moves_a_secret_takes_the_text_along() -> None:
    safe = Safe(secret="hunter2")
    safe.other = safe.__dict__["secret"]
    assert safe.other == "hunter2"


@pytest.mark.parametrize(
    "value",
    ["hunter2", "v1:", "v1:hunter2", "v2:gAAAAA", "v1:" + base64.urlsafe_b64encode(b"\x80" + bytes(100)).decode()],
)
def test_what_is_not_our_ciphertext_is_never_returned(value: str) -> None:
    with pytest.raises(DecryptionFailed) as caught:
        Ciphertext(label=LABEL, stored=value).decrypt()
    assert value not in f"{caught.value} {caught.value!r} {caught.value.messages}"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("content", ["hunter2", ["x"], [LABEL, 5], {"a": 1}, [LABEL, "a", "b"], None, 7])
def test_a_token_of_something_else_is_never_returned(content: object) -> None:
    with keys(OLD):
        token = Fernet(OLD).encrypt(json.dumps(content).encode()).decode()
        with pytest.raises(DecryptionFailed):
            Ciphertext(label=LABEL, stored="v1:" + token).decrypt()


def test_a_lost_key_leaves_the_row_usable() -> None:
    with keys(OLD):
        safe = Safe(secret="hunter2")
    with keys(NEW):
        assert str(safe) == "a safe"
        assert is_set(safe, "secret")
        field = Safe._meta.get_field("secret")
        assert field.pre_save(safe, add=False) == safe.__dict__["secret"]
        with pytest.raises(DecryptionFailed) as caught:
            _ = safe.secret
        assert caught.value.label == LABEL
        safe.secret = "anew"
        assert safe.secret == "anew"


def test_a_form_says_at_the_field_that_the_key_is_lost() -> None:
    with keys(OLD):
        safe = Safe(secret="hunter2")
    with keys(NEW), pytest.raises(ValidationError) as caught:
        safe.clean_fields()
    assert list(caught.value.message_dict) == ["secret"]


def test_rotation_ends_with_the_first_key_alone() -> None:
    with keys(OLD):
        before = encrypt("hunter2", label=LABEL)
    with keys(NEW, OLD):
        after = rotate(before)
    with keys(NEW):
        assert after.decrypt() == "hunter2"
        with pytest.raises(DecryptionFailed):
            before.decrypt()
        with pytest.raises(DecryptionFailed):
            rotate(before)


def test_rotation_refuses_a_token_of_another_column() -> None:
    with pytest.raises(DecryptionFailed):
        rotate(Ciphertext(label="prx_email_django.safe.other", stored=encrypt("hunter2", label=LABEL).stored))


# --- queries --------------------------------------------------------------------------------------------------------


def where(condition: Q) -> tuple[str, tuple[Any, ...]]:
    query = Query(Safe)
    query.add_q(condition)
    sql, params = query.get_compiler(connection=connection).as_sql()
    return sql.partition("WHERE")[2], params


def test_the_empty_text_can_be_asked_for_and_nothing_else() -> None:
    sql, params = where(Q(secret=""))
    assert sql.strip().endswith("= %s")
    assert params == ("",)
    assert "IS NOT NULL" in where(Q(secret__isnull=False))[0]
    ciphertext = encrypt("hunter2", label=LABEL)
    assert where(Q(secret=ciphertext))[1] == (ciphertext.stored,)
    for wrong in (Q(secret="hunter2"), Q(secret=models.F("other"))):
        with pytest.raises(FieldError, match="cannot be searched"):
            where(wrong)
    for lookup in ("contains", "startswith", "in", "gt", "iexact", "regex"):
        with pytest.raises(FieldError):
            where(Q(**{f"secret__{lookup}": "h"}))


def test_every_way_of_writing_encrypts() -> None:
    field = Safe._meta.get_field("secret")
    for written in (field.get_prep_value("hunter2"), field.get_db_prep_save("hunter2", connection)):
        assert field.from_db_value(written, None, connection).decrypt() == "hunter2"
    assert field.get_prep_value(None) is None
    expression = models.F("other")
    assert field.encrypted(expression) is expression


# --- migrations and forms -------------------------------------------------------------------------------------------


def test_no_key_gets_into_a_migration() -> None:
    name, path, args, kwargs = Safe._meta.get_field("secret").deconstruct()
    assert (name, path, args) == ("secret", "prx_email_django.models.encrypted.EncryptedTextField", [])
    assert kwargs == {"blank": True, "default": ""}


def test_null_would_be_a_second_way_to_say_unset() -> None:
    with pytest.raises(ValueError, match="must not be null"):
        EncryptedTextField(null=True)


class SafeForm(forms.ModelForm):
    class Meta:
        model = Safe
        fields = ("secret", "other")
        widgets = {"other": forms.TextInput}


def test_a_form_never_shows_a_secret_and_keeps_what_was_not_typed() -> None:
    safe = Safe(secret="hunter2", other="swordfish")
    form = SafeForm(instance=safe)
    html = form.as_p()
    assert html.count('type="password"') == 2
    assert "hunter2" not in html
    assert "swordfish" not in html
    kept = stored(safe)
    form = SafeForm({"secret": "", "other": " typed "}, instance=safe)
    assert form.is_valid(), form.errors
    assert form.changed_data == ["other"]
    assert (safe.secret, safe.other) == ("hunter2", " typed ")
    assert kept.startswith("v1:")


def test_a_stolen_ciphertext_typed_into_a_form_is_not_put_to_use() -> None:
    stolen = stored(Safe(secret="hunter2"))
    safe = Safe()
    form = SafeForm({"secret": stolen, "other": ""}, instance=safe)
    assert form.is_valid(), form.errors
    assert safe.secret == stolen


def test_a_fixture_is_read_as_ciphertext_even_where_its_key_is_lost() -> None:
    field = Safe._meta.get_field("secret")
    dumped = stored(Safe(secret="hunter2"))
    assert field.to_python(dumped).decrypt() == "hunter2"
    with keys(NEW), pytest.raises(DecryptionFailed):
        field.to_python(dumped).decrypt()
    assert field.to_python("hunter2") == "hunter2"
    assert field.to_python(None) == ""
