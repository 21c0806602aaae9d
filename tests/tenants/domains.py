"""The domain of Message-IDs, as docs/how-to/tenants.md writes it."""

from __future__ import annotations

from django.db import connection


def message_id_domain() -> str:
    """``seven.mail.example.com`` in the schema ``seven``."""
    schema = getattr(connection, "schema_name", "public")
    return f"{schema.replace('_', '-')}.mail.example.com"
