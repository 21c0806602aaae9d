"""``rotate_credentials``: every secret gets the first key, an interruption loses nothing, and no secret is shown."""

from __future__ import annotations

from typing import Any

import pytest
from django.core import checks
from django.core.management.base import CommandError

from prx_email_django.models import Account, AccountState
from prx_email_django.models.managers import outbox_alias
from prx_email_django.store import rotation
from tests.integration.face_rows import run
from tests.support.factories import MEMORY

pytestmark = pytest.mark.django_db

OLD, NEW = "a passphrase of the old days", "a passphrase of these days"
FIELDS = {"host": "smtp.example.com", "port": 465, "user": "u"}


def keys(settings: Any, *given: str) -> None:
    settings.PRX_EMAIL = {**MEMORY, **({"CREDENTIAL_KEYS": list(given)} if given else {})}


def make(count: int) -> None:
    for number in range(count):
        account = Account.objects.create(name=f"n{number}", password=f"planted-{number}", **FIELDS)
        AccountState.objects.create(account=account, access_token=f"token-{number}")


def test_secrets_move_from_the_secret_key_to_keys_of_their_own(settings: Any) -> None:
    keys(settings)
    make(3)
    keys(settings, NEW, "SECRET_KEY")
    assert Account.objects.first().password == "planted-0", "nothing pauses in between"
    assert run("rotate_credentials", "--dry-run") == "6 would be encrypted with the first key, 0 already were"
    assert "planted" not in (said := run("rotate_credentials")) and said.startswith("6 encrypted")
    keys(settings, NEW)
    assert [account.password for account in Account.objects.order_by("pk")] == ["planted-0", "planted-1", "planted-2"]
    assert AccountState.objects.first().access_token == "token-0"
    assert run("rotate_credentials").startswith("0 encrypted with the first key, 6 already were")


def test_an_interrupted_rotation_goes_on_where_it_ended(settings: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(rotation, "BATCH", 2)
    keys(settings, OLD)
    make(5)
    keys(settings, NEW, OLD)
    batches: list[int] = []

    def interrupt(rows: int) -> None:
        batches.append(rows)
        if len(batches) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rotation.rotate_secrets(progress=interrupt)
    again = rotation.rotate_secrets()
    assert (batches, again.rotated + again.current, again.current) == ([2, 2], 10, 4)


def test_a_secret_that_is_changed_meanwhile_is_not_set_back(settings: Any, monkeypatch: Any) -> None:
    keys(settings, OLD)
    make(1)
    keys(settings, NEW, OLD)
    replace = rotation._replace

    def after_a_person(secret: rotation.Secret, *args: Any) -> bool:
        if secret.model is Account:
            Account.objects.update(password="typed just now")
        return replace(secret, *args)

    monkeypatch.setattr(rotation, "_replace", after_a_person)
    rotation.rotate_secrets()
    assert Account.objects.get().password == "typed just now"


def test_a_row_that_no_key_reads_is_named_and_stays(settings: Any) -> None:
    keys(settings, OLD)
    make(2)
    keys(settings, NEW)
    Account.objects.filter(name="n1").update(password="typed again")
    with pytest.raises(CommandError, match="enter these secrets again"):
        run("rotate_credentials")
    found = checks.run_checks(tags=[checks.Tags.database], databases=[outbox_alias()])
    (warning,) = (message for message in found if message.id == "prx_email_django.W043")
    assert "“n0”" in warning.msg and "password" in warning.msg and "planted" not in warning.msg
    keys(settings, NEW, OLD)
    assert Account.objects.get(name="n0").password == "planted-0"
