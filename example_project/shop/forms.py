"""The forms of the shop and of its operator."""

from __future__ import annotations

from django import forms

from example_project.catcher.mode import Mode


class OrderForm(forms.Form):
    """Who orders; the book is in the page's address."""

    name = forms.CharField(max_length=100, initial="Ann", label="Your name")
    email = forms.EmailField(initial="ann@example.org", label="Your email address")
    fail = forms.BooleanField(required=False, label="let the payment fail, after the receipt was queued")


class ModeForm(forms.Form):
    """A behaviour of the provider."""

    mode = forms.TypedChoiceField(choices=[(mode.value, mode.label) for mode in Mode], coerce=Mode)
