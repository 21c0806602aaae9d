"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """Registered as ``example_project.shop`` in INSTALLED_APPS."""

    name = "example_project.shop"
    label = "shop"
    verbose_name = "Lantern Books"
