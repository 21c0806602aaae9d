"""An index whose condition is left out where the database has no partial indexes."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.ddl_references import Statement


class PartialIndex(models.Index):
    """Partial on SQLite and PostgreSQL, whole on MariaDB and MySQL.

    Django's own ``Index(condition=…)`` makes ``check --fail-level WARNING`` fail (models.W037) in every project on
    MariaDB or MySQL, although the whole index serves as well there.
    """

    def __init__(self, *expressions: Any, where: models.Q, **kwargs: Any) -> None:
        super().__init__(*expressions, **kwargs)
        self.where = where

    def deconstruct(self) -> tuple[str, Any, dict[str, Any]]:
        """Add the condition, so that migrations and clones keep it."""
        path, args, kwargs = super().deconstruct()
        return path, args, {**kwargs, "where": self.where}

    def create_sql(
        self,
        model: type[models.Model],
        schema_editor: BaseDatabaseSchemaEditor,
        using: str = "",
        **kwargs: Any,
    ) -> Statement:
        """Create it with its condition where the database can."""
        index: Any = super()
        if schema_editor.connection.features.supports_partial_indexes:
            index = models.Index(fields=self.fields, name=self.name, condition=self.where)
        statement: Statement = index.create_sql(model, schema_editor, using=using, **kwargs)
        return statement
