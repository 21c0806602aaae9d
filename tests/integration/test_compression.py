"""On PostgreSQL long texts and files are compressed by lz4, which its build may lack."""

from __future__ import annotations

import pytest
from django.db import connections

from prx_email_django.models import ContentChunk, OutboxMessage
from prx_email_django.models.compression import Lz4
from prx_email_django.models.managers import outbox_alias
from tests.support.factories import NOW, account

pytestmark = pytest.mark.django_db(transaction=True)

IS_POSTGRES = connections[outbox_alias()].vendor == "postgresql"
needs_postgres = pytest.mark.skipif(not IS_POSTGRES, reason="only PostgreSQL compresses columns")

LONG = "<tr><td>a row of a table, as mails have hundreds</td></tr>" * 500
_OF_COLUMNS = """SELECT attname, attcompression FROM pg_attribute
 WHERE attrelid = %s::regclass AND attcompression <> '' ORDER BY attname"""


def rows_of(sql: str, *params: object) -> list[tuple[object, ...]]:
    with connections[outbox_alias()].cursor() as cursor:
        cursor.execute(sql, params)
        return list(cursor.fetchall())


def compressed(table: str) -> list[str]:
    """The columns whose compression is lz4."""
    return [str(name) for name, method in rows_of(_OF_COLUMNS, table) if method in ("l", b"l")]


def test_the_migration_sets_lz4_for_the_long_columns() -> None:
    if not IS_POSTGRES:
        editor = connections[outbox_alias()].schema_editor(collect_sql=True)
        assert [lz4.create_sql(model, editor) for model, lz4 in every_lz4()] == [None, None]
        return
    assert compressed(OutboxMessage._meta.db_table) == ["body_html", "body_text"]
    assert compressed(ContentChunk._meta.db_table) == ["data"]


def test_a_long_text_is_stored_by_lz4_and_read_as_it_was() -> None:
    message = OutboxMessage.objects.create(
        account=account(), subject="s", body_html=LONG, body_text=LONG, due_since=NOW, next_attempt_at=NOW
    )
    message.refresh_from_db()
    assert (message.body_html, message.body_text) == (LONG, LONG)
    if IS_POSTGRES:
        sql = "SELECT pg_column_compression(body_html), pg_column_compression(body_text) FROM {}"
        assert rows_of(sql.format(OutboxMessage._meta.db_table)) == [("lz4", "lz4")]


def every_lz4() -> list[tuple[type[OutboxMessage] | type[ContentChunk], Lz4]]:
    models = (OutboxMessage, ContentChunk)
    return [(model, each) for model in models for each in model._meta.constraints if isinstance(each, Lz4)]


@needs_postgres
def test_it_can_be_taken_back_and_set_again() -> None:
    connection = connections[outbox_alias()]
    for model, lz4 in every_lz4():
        with connection.schema_editor() as editor:
            editor.remove_constraint(model, lz4)
        assert compressed(model._meta.db_table) == []
        with connection.schema_editor() as editor:
            editor.add_constraint(model, lz4)
        assert compressed(model._meta.db_table) == sorted(lz4.fields)


@needs_postgres
def test_a_build_without_lz4_keeps_its_own_way() -> None:
    """The condition of the block: with another name it is false, as it is where lz4 is not built in."""
    connection = connections[outbox_alias()]
    (model, lz4), *_ = every_lz4()
    with connection.schema_editor() as editor:
        editor.remove_constraint(model, lz4)
    sql = lz4.create_sql(model, connection.schema_editor(collect_sql=True)).replace("= 'default_toast", "= 'no_toast")
    with connection.cursor() as cursor:
        cursor.execute(sql)
    assert compressed(model._meta.db_table) == []
    with connection.schema_editor() as editor:
        editor.add_constraint(model, lz4)


def test_two_of_them_are_equal_where_they_say_the_same() -> None:
    lz4 = Lz4(fields=["data"], name="prx_chunk_lz4")
    assert lz4 == lz4.clone()
    assert hash(lz4) == hash(lz4.clone())
    assert lz4 != Lz4(fields=["data"], name="another")
    assert lz4 != Lz4(fields=["data", "position"], name="prx_chunk_lz4")
