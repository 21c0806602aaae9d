"""Indexes and unique constraints that are partial where the database has partial indexes."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.ddl_references import Statement


class PartialIndex(models.Index):
    """An index with the condition ``where`` on SQLite and PostgreSQL, without it on MariaDB and MySQL.

    Django's own ``Index(condition=…)`` makes ``check --fail-level WARNING`` fail (models.W037) in every project on
    MariaDB or MySQL, although the index without the condition is good enough there.
    """

    def __init__(self, *expressions: Any, where: models.Q, **kwargs: Any) -> None:
        super().__init__(*expressions, **kwargs)
        self.where = where

    def deconstruct(self) -> tuple[str, Any, dict[str, Any]]:
        """The arguments of the index with its condition, for migrations and clones."""
        path, args, kwargs = super().deconstruct()
        return path, args, {**kwargs, "where": self.where}

    def create_sql(
        self,
        model: type[models.Model],
        schema_editor: BaseDatabaseSchemaEditor,
        using: str = "",
        **kwargs: Any,
    ) -> Statement:
        """The SQL that creates the index, with the condition if the database supports it."""
        index: Any = super()
        if schema_editor.connection.features.supports_partial_indexes:
            index = models.Index(fields=self.fields, name=self.name, condition=self.where)
        statement: Statement = index.create_sql(model, schema_editor, using=using, **kwargs)
        return statement


class NonEmptyIndex(models.Index):
    """An index of one text column, on PostgreSQL without the rows where the text is empty.

    PostgreSQL writes an entry for each new version of a row, the others only where the column changes.  They also would
    not use a partial index for ``column = 'text'``; for how a text begins, PostgreSQL asks for ``is_filled`` beside it.
    """

    def create_sql(
        self, model: type[models.Model], schema_editor: BaseDatabaseSchemaEditor, using: str = "", **kwargs: Any
    ) -> Statement:
        """The SQL that creates the index, with the condition on PostgreSQL."""
        index: Any = super()
        if schema_editor.connection.vendor == "postgresql":
            condition = is_filled(self.fields[0])
            index = models.Index(
                fields=self.fields, name=self.name, opclasses=tuple(self.opclasses), condition=condition
            )
        statement: Statement = index.create_sql(model, schema_editor, using=using, **kwargs)
        return statement


def is_filled(field: str) -> models.Q:
    """The rows that a ``NonEmptyIndex`` of the field has on PostgreSQL."""
    return ~models.Q(**{field: ""})


class PartialUnique(models.UniqueConstraint):
    """A unique constraint without the rows whose last field is NULL, where the database has partial indexes.

    Rows with a NULL never conflict, so it means the same everywhere; where it is partial, those rows have no entry in
    its index.  Django's own ``condition`` makes MariaDB and MySQL leave the constraint out (models.W036).
    """

    def constraint_sql(self, model: Any, schema_editor: Any) -> Any:
        """The SQL of the constraint in CREATE TABLE, or None where an index is created after it."""
        return self._of(schema_editor).constraint_sql(model, schema_editor)

    def create_sql(self, model: Any, schema_editor: Any) -> Any:
        """The SQL that creates the constraint."""
        return self._of(schema_editor).create_sql(model, schema_editor)

    def remove_sql(self, model: Any, schema_editor: Any) -> Any:
        """The SQL that removes the constraint."""
        return self._of(schema_editor).remove_sql(model, schema_editor)

    def _of(self, schema_editor: Any) -> models.UniqueConstraint:
        """The constraint as this database has it."""
        is_partial = schema_editor.connection.features.supports_partial_indexes
        condition = models.Q(**{f"{self.fields[-1]}__isnull": False}) if is_partial else None
        return models.UniqueConstraint(fields=self.fields, name=self.name, condition=condition)
