"""Long columns that PostgreSQL compresses by lz4, where its build has it (14 or later)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import models

#: In a block, since a migration does not ask the database before it has made its SQL (``sqlmigrate``).
_IF_BUILT_WITH = """DO $$ BEGIN
 IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY(enumvals)) THEN
 ALTER TABLE {table} {changes};
 END IF;
END $$"""


class Lz4(models.BaseConstraint):
    """PostgreSQL compresses the values of these columns by lz4: a long text takes a third of pglz's processor time.

    It constrains no row.  It stands among the constraints since what stands there brings SQL of its own into each
    migration, also into one that is written anew.  Values that are stored already stay as they are
    (https://www.postgresql.org/docs/current/sql-altertable.html, SET COMPRESSION).
    """

    def __init__(self, *, fields: Sequence[str], name: str) -> None:
        super().__init__(name=name)
        self.fields = tuple(fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lz4) and (self.name, self.fields) == (other.name, other.fields)

    def __hash__(self) -> int:
        return hash((self.name, self.fields))

    def deconstruct(self) -> tuple[str, Any, dict[str, Any]]:
        """The arguments, for migrations and clones."""
        path, args, kwargs = super().deconstruct()
        return path, args, {**kwargs, "fields": self.fields}

    def constraint_sql(self, model: Any, schema_editor: Any) -> Any:
        """Nothing stands in CREATE TABLE: the statement follows it."""
        if sql := self.create_sql(model, schema_editor):
            schema_editor.deferred_sql.append(sql)

    def create_sql(self, model: Any, schema_editor: Any) -> Any:
        """The SQL for PostgreSQL; None for the others."""
        return self._sql(model, schema_editor, "lz4")

    def remove_sql(self, model: Any, schema_editor: Any) -> Any:
        """The SQL that lets the setting ``default_toast_compression`` decide again."""
        return self._sql(model, schema_editor, "default")

    def _sql(self, model: Any, schema_editor: Any, method: str) -> str | None:
        if schema_editor.connection.vendor != "postgresql":
            return None
        columns = [str(model._meta.get_field(name).column) for name in self.fields]
        return _IF_BUILT_WITH.format(
            table=schema_editor.quote_name(model._meta.db_table),
            changes=", ".join(
                f"ALTER COLUMN {schema_editor.quote_name(column)} SET COMPRESSION {method}" for column in columns
            ),
        )

    def validate(self, *given: Any, **options: Any) -> None:
        """Every row is valid."""
