"""Encrypts stored secrets with the first key again; workers may keep running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.db.models import Q

from prx_email_django.models.encrypted import Ciphertext, DecryptionFailed, EncryptedTextField, is_current, rotate
from prx_email_django.store.db import retried

#: Rows that are read at once.
BATCH = 200


@dataclass(slots=True)
class Rotation:
    """What a rotation has done: secrets encrypted again, secrets that were current, and columns that cannot be read."""

    rotated: int = 0
    current: int = 0
    #: ``(row, column)`` in words.
    unreadable: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Secret:
    """One column of one row, as it was read."""

    model: Any
    pk: Any
    name: str
    value: Ciphertext


def stored_secrets() -> int:
    """How many rows hold a ciphertext."""
    return sum(rows.count() for rows, _ in _tables())


def rotate_secrets(*, dry_run: bool = False, progress: Callable[[int], object] | None = None) -> Rotation:
    """Encrypt every secret with the first key that is not encrypted with it yet.

    It may be ended at any time and be started again: each secret is one conditional UPDATE, and a secret that is
    current is left alone.  A secret that somebody changes meanwhile keeps the newer value.  ``progress`` is called with
    the number of rows of each batch.
    """
    done = Rotation()
    for rows, names in _tables():
        for batch in _batches(rows, names):
            for pk, values in batch:
                for name, value in zip(names, values, strict=True):
                    if isinstance(value, Ciphertext):
                        _rotate(Secret(rows.model, pk, name, value), done=done, dry_run=dry_run)
            if progress is not None:
                progress(len(batch))
    return done


def _tables() -> Iterator[tuple[Any, tuple[str, ...]]]:
    """The rows of each table with secrets, and the columns."""
    for model in apps.get_app_config("prx_email_django").get_models():
        names = tuple(column.name for column in model._meta.concrete_fields if isinstance(column, EncryptedTextField))
        if names:
            holding = Q()
            for name in names:
                holding |= ~Q(**{name: ""})
            yield model._default_manager.filter(holding).order_by("pk"), names


def _batches(rows: Any, names: tuple[str, ...]) -> Iterator[list[tuple[Any, list[Any]]]]:
    last: Any = None
    while True:
        batch = _batch(rows if last is None else rows.filter(pk__gt=last), names)
        if not batch:
            return
        yield batch
        last = batch[-1][0]


@retried
def _batch(rows: Any, names: tuple[str, ...]) -> list[tuple[Any, list[Any]]]:
    return [(pk, values) for pk, *values in rows.values_list("pk", *names)[:BATCH]]


def _rotate(secret: Secret, *, done: Rotation, dry_run: bool) -> None:
    try:
        if is_current(secret.value):
            done.current += 1
            return
        renewed = rotate(secret.value)
    except DecryptionFailed:
        done.unreadable.append((f"{secret.model._meta.verbose_name} {secret.pk}", secret.name))
        return
    if dry_run or _replace(secret, renewed):
        done.rotated += 1


@retried
def _replace(secret: Secret, renewed: Ciphertext) -> bool:
    unchanged = secret.model._default_manager.filter(pk=secret.pk, **{secret.name: secret.value})
    return bool(unchanged.update(**{secret.name: renewed}))
