"""URLs of the shop."""

from __future__ import annotations

from django.urls import path

from example_project.shop import views

urlpatterns = [
    path("", views.shop, name="shop"),
    path("inbox/", views.inbox, name="inbox"),
    path("inbox/<str:name>/", views.message, name="message"),
]
