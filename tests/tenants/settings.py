"""Settings of a project with django-tenants.

``OUTBOX=tenants`` has an outbox in each tenant's schema, ``OUTBOX=shared`` has one in the shared schema.  PostgreSQL is
chosen as in ``tests.settings``.
"""

from __future__ import annotations

import os
from typing import Any

OUTBOX = os.environ.get("OUTBOX", "tenants")
_server = {
    "HOST": os.environ.get("POSTGRES_HOST", "127.0.0.1"),
    "PORT": os.environ.get("POSTGRES_PORT", "5432"),
    "USER": os.environ.get("POSTGRES_USER", "postgres"),
    "PASSWORD": os.environ.get("POSTGRES_PASSWORD", ""),
}
_NAME = f"prx_tenants_{os.getpid()}"
DATABASES: dict[str, Any] = {
    "default": {"ENGINE": "django_tenants.postgresql_backend", "NAME": _NAME, "TEST": {"NAME": _NAME}, **_server}
}
DATABASE_ROUTERS = ("django_tenants.routers.TenantSyncRouter",)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TENANT_MODEL = "customers.Customer"
TENANT_DOMAIN_MODEL = "customers.Domain"

SHARED_APPS = ["django_tenants", "tests.tenants.customers", "django.contrib.contenttypes"]
TENANT_APPS = ["django.contrib.contenttypes"]
(TENANT_APPS if OUTBOX == "tenants" else SHARED_APPS).append("prx_email_django")
INSTALLED_APPS = [*SHARED_APPS, *(app for app in TENANT_APPS if app not in SHARED_APPS)]

USE_TZ = True
SECRET_KEY = "tests-of-tenants"
PRX_EMAIL: dict[str, Any] = {"MESSAGE_ID_DOMAIN": "tests.tenants.domains.message_id_domain", "WAKE": ""}
