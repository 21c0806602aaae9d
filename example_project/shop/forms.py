"""The order form."""

from __future__ import annotations

from django import forms


class OrderForm(forms.Form):
    """The arguments of ``place_order``."""

    name = forms.CharField(max_length=100, initial="Ann")
    email = forms.EmailField(initial="ann@example.org")
    book = forms.CharField(max_length=100, initial="The Lighthouse")
    fail = forms.BooleanField(required=False, label="make the payment fail after the receipt was queued")
