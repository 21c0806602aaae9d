"""Models of the shop."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """An order of one book."""

    name = models.CharField(max_length=100)
    email = models.EmailField()
    book = models.CharField(max_length=200)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"order {self.pk}: {self.book}"
