"""Prepares the database: tables, accounts that use the example's mail servers, and a user for the admin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import call_command

from example_project.catcher.credentials import CLIENT_ID, CLIENT_SECRET, PASSWORDS, TOKEN_USER
from prx_email_django.models import Account

ADMIN, ADMIN_PASSWORD = "admin", "admin"


def prepare(ports: Mapping[str, int]) -> None:
    """Migrate, then create or update accounts and user; ``ports`` are those of ``Catcher`` and ``reports``."""
    call_command("migrate", verbosity=0, interactive=False)
    for account in accounts(ports):
        name = account.pop("name")
        Account.objects.update_or_create(name=name, defaults=account)
    users = get_user_model().objects
    if not users.filter(username=ADMIN).exists():
        users.create_superuser(ADMIN, "admin@shop.example", ADMIN_PASSWORD)


def accounts(ports: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the fields of the three accounts of the shop."""
    return [
        {
            "name": "orders",
            "email": "orders@shop.example",
            "display_name": "Lantern Books",
            "host": "127.0.0.1",
            "port": ports["tls"],
            "security": "tls",
            "user": "orders@shop.example",
            "password": PASSWORDS["orders@shop.example"],
        },
        {
            "name": "newsletter",
            "email": TOKEN_USER,
            "display_name": "Lantern Books News",
            "host": "127.0.0.1",
            "port": ports["starttls"],
            "security": "starttls",
            "user": TOKEN_USER,
            "oauth_provider": "custom",
            "oauth_client_id": CLIENT_ID,
            "oauth_client_secret": CLIENT_SECRET,
            "oauth_token_url": f"http://127.0.0.1:{ports['token']}/token",
        },
        {
            "name": "reports",
            "email": "reports@shop.example",
            "host": "127.0.0.1",
            "port": ports["reports"],
            "security": "starttls",
            "user": "reports@shop.example",
            "password": PASSWORDS["reports@shop.example"],
        },
    ]
