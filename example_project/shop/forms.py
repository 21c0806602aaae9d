"""The order form."""

from __future__ import annotations

from django import forms


class OrderForm(forms.Form):
    """What ``place_order`` takes."""

    name = forms.CharField(max_length=100, initial="Ann")
    email = forms.EmailField(initial="ann@example.org")
    book = forms.CharField(max_length=100, initial="The Lighthouse")
    fail = forms.BooleanField(required=False, label="let the payment fail after the receipt was queued")
