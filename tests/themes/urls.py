"""URLs of the test project, with what the page on themes tells a project to add for its theme."""

from __future__ import annotations

from django.conf import settings
from django.contrib import admin
from django.urls import include, path

from tests.support.documents import blocks

if settings.THEME == "unfold":  # before ``admin.site.urls`` is read
    (_shown,) = (block for block in blocks("docs/how-to/admin-themes.md") if block.language == "python")
    exec(compile(_shown.text, str(_shown), "exec"), {"__name__": __name__})

urlpatterns = [path("admin/", admin.site.urls)]
if settings.THEME == "grappelli":
    urlpatterns.insert(0, path("grappelli/", include("grappelli.urls")))
