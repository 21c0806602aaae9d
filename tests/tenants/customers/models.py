"""The tenants of the test project."""

from __future__ import annotations

from django_tenants.models import DomainMixin, TenantMixin


class Customer(TenantMixin):
    """A tenant with a schema of its own."""

    auto_create_schema = True
    auto_drop_schema = True


class Domain(DomainMixin):
    """The address of a tenant."""
