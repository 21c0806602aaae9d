"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """App configuration of the shop."""

    name = "example_project.shop"
    label = "shop"
    verbose_name = "Lantern Books"
