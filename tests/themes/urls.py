"""URLs of the test project, with those that grappelli needs."""

from __future__ import annotations

from django.conf import settings
from django.urls import include, path

from tests.urls import urlpatterns as usual

urlpatterns = [*usual]
if settings.THEME == "grappelli":
    urlpatterns.insert(0, path("grappelli/", include("grappelli.urls")))
