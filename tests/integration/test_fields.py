"""Encrypted columns in a real database: what is stored and read, and what works when a key is lost."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from cryptography.fernet import Fernet
from django.core import serializers
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from prx_email_django.models import Account
from prx_email_django.models.encrypted import Ciphertext, DecryptionFailed, rotate

pytestmark = pytest.mark.django_db

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


def keys(*given_keys: str) -> override_settings:
    return override_settings(PRX_EMAIL={"CREDENTIAL_KEYS": list(given_keys)})


def make(name: str = "shop", password: str = "hunter2") -> Account:
    return Account.objects.create(name=name, host="smtp.example.com", port=465, user="ann", password=password)


def column(account: Account, name: str = "password") -> str:
    """The value in the table, read without the ORM."""
    table, quote = Account._meta.db_table, connection.ops.quote_name
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {quote(name)} FROM {quote(table)} WHERE id = %s", [account.pk])
        return str(cursor.fetchone()[0])


def test_the_table_holds_no_password_however_it_was_written() -> None:
    account = make()
    with CaptureQueriesContext(connection) as queries:
        [other] = Account.objects.bulk_create(
            [Account(name="other", host="smtp.example.com", user="bob", password="swordfish")]
        )
        Account.objects.filter(pk=account.pk).update(password="correct horse")
        other = Account.objects.get(name="other")
        other.password = "battery staple"
        Account.objects.bulk_update([other], ["password"])
        Account.objects.update_or_create(name="third", defaults={"host": "h", "user": "u", "password": "open sesame"})
    assert Account.objects.get(pk=account.pk).password == "correct horse"
    assert Account.objects.get(pk=other.pk).password == "battery staple"
    assert Account.objects.get(name="third").password == "open sesame"
    statements = " ".join(query["sql"] for query in queries)
    for text in ("swordfish", "correct horse", "battery staple", "open sesame"):
        assert text not in statements
    for row in Account.objects.all():
        assert column(row).startswith("v1:")


def test_an_unset_secret_is_the_empty_text_in_the_table() -> None:
    account = make()
    assert column(account, "oauth_token") == ""
    assert list(Account.objects.filter(oauth_token="")) == [account]
    assert not Account.objects.filter(password="").exists()
    assert not Account.objects.filter(password__isnull=True).exists()


def test_the_constraint_sees_through_the_encryption_whether_a_secret_is_set() -> None:
    account = make()
    with pytest.raises(IntegrityError), transaction.atomic():
        Account.objects.filter(pk=account.pk).update(password="")
    with pytest.raises(IntegrityError), transaction.atomic():
        Account.objects.filter(pk=account.pk).update(oauth_token="a token and a password")
    with pytest.raises(ValidationError):
        Account(name="none", host="smtp.example.com", user="ann", auth_method="password").full_clean()
    Account(name="one", host="smtp.example.com", user="ann", password="hunter2").full_clean()


def test_a_preset_without_credentials_is_refused_in_words() -> None:
    """The name of a CHECK constraint does not say that the password is missing."""
    with pytest.raises(ValidationError, match="Set the password"):
        Account.objects.from_preset("gmail", name="news", user="news@example.com")
    assert not Account.objects.exists()


@pytest.mark.parametrize(
    "host", ["smtp.example.com:465", "smtps://smtp.example.com", "ann@smtp.example.com", "a host", "[2001:db8::1]"]
)
def test_a_host_with_a_user_or_port_is_refused_at_its_field(host: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Account(name="one", host=host, user="ann", password="hunter2").full_clean()
    assert list(refused.value.message_dict) == ["host"]


@pytest.mark.parametrize("host", ["smtp.example.com", "localhost", "192.0.2.1", "2001:db8::1", "smtp.example.com."])
def test_names_and_addresses_are_hosts(host: str) -> None:
    Account(name="one", host=host, user="ann", password="hunter2").full_clean()


def test_copies_of_an_instance_hold_ciphertext() -> None:
    account = Account.objects.get(pk=make().pk)
    assert account.password == "hunter2"
    dumped = pickle.dumps(account)
    assert b"hunter2" not in dumped
    assert pickle.loads(dumped).password == "hunter2"
    assert copy.deepcopy(account).password == "hunter2"
    assert "hunter2" not in repr(vars(account))


def test_a_deferred_secret_is_fetched_when_it_is_read() -> None:
    account = Account.objects.defer("password").get(pk=make().pk)
    assert "password" in account.get_deferred_fields()
    assert account.password == "hunter2"
    account.password = "another"
    account.refresh_from_db()
    assert account.password == "hunter2"


def test_values_return_ciphertext_that_can_be_decrypted() -> None:
    make()
    [ciphertext] = Account.objects.values_list("password", flat=True)
    assert isinstance(ciphertext, Ciphertext)
    assert "hunter2" not in repr(ciphertext)
    assert ciphertext.decrypt() == "hunter2"


def test_saving_something_else_leaves_the_ciphertext_alone() -> None:
    account = make()
    before = column(account)
    account = Account.objects.get(pk=account.pk)
    account.display_name = "The shop"
    account.save()
    assert column(account) == before


def test_a_lost_key_does_not_hide_the_accounts() -> None:
    with keys(OLD):
        account = make()
    before = column(account)
    with keys(NEW):
        [found] = Account.objects.all()
        assert str(found) == "shop"
        with pytest.raises(DecryptionFailed):
            _ = found.password
        Account.objects.filter(pk=found.pk).update(display_name="The shop")
        found.save(update_fields=["display_name"])
        assert column(account) == before
        found.password = "anew"
        found.save()
        assert Account.objects.get(pk=found.pk).password == "anew"


def test_ciphertext_that_was_moved_in_the_table_cannot_be_decrypted() -> None:
    account = make()
    Account.objects.filter(pk=account.pk).update(oauth_client_secret=F("password"))
    assert column(account, "oauth_client_secret") == column(account)
    with pytest.raises(DecryptionFailed, match="oauth_client_secret"):
        _ = Account.objects.get(pk=account.pk).oauth_client_secret


def test_rotation_does_not_overwrite_what_was_saved_meanwhile() -> None:
    with keys(OLD):
        account = make()
        stale = Account.objects.values_list("password", flat=True).get()
        Account.objects.filter(pk=account.pk).update(password="newer")
        current = Account.objects.values_list("password", flat=True).get()
    with keys(NEW, OLD):
        assert Account.objects.filter(pk=account.pk, password=stale).update(password=rotate(stale)) == 0
        assert Account.objects.filter(pk=account.pk, password=current).update(password=rotate(current)) == 1
    with keys(NEW):
        assert Account.objects.get(pk=account.pk).password == "newer"


@pytest.mark.parametrize("form", ["json", "xml", "jsonl"])
def test_a_dump_holds_ciphertext_and_loads_again(form: str) -> None:
    account = make()
    dump = serializers.serialize(form, Account.objects.all())
    assert "hunter2" not in dump
    assert column(account) in dump
    Account.objects.all().delete()
    for deserialized in serializers.deserialize(form, dump):
        deserialized.save()
    assert "hunter2" not in column(Account.objects.get())
    assert Account.objects.get().password == "hunter2"


def test_a_dump_without_its_key_is_refused_and_not_stored_as_a_password() -> None:
    with keys(OLD):
        dump = serializers.serialize("json", [make()])
    Account.objects.all().delete()
    with keys(NEW):
        [deserialized] = serializers.deserialize("json", dump)
        with pytest.raises(DecryptionFailed), transaction.atomic():
            deserialized.save()
    assert not Account.objects.exists()


def test_a_fixture_written_by_hand_is_encrypted() -> None:
    dump = json.loads(serializers.serialize("json", [make()]))
    dump[0]["fields"]["password"] = "typed by hand"
    [deserialized] = serializers.deserialize("json", json.dumps(dump))
    deserialized.save()
    account = Account.objects.get()
    assert account.password == "typed by hand"
    assert column(account).startswith("v1:")
