"""URLs of the shop, its operator, and the inbox of the example's mail server."""

from __future__ import annotations

from django.urls import path

from example_project.shop import inbox, operator, views

urlpatterns = [
    path("", views.shop, name="shop"),
    path("order/<slug:slug>/", views.order, name="order"),
    path("orders/<int:pk>/", views.ordered, name="ordered"),
    path("operator/", operator.page, name="operator"),
    path("operator/provider/", operator.set_mode, name="set_mode"),
    path("operator/rush/", operator.rush, name="rush"),
    path("operator/retry/<int:pk>/", operator.retry, name="retry"),
    path("operator/resume/", operator.resume, name="resume"),
    path("inbox/", inbox.inbox, name="inbox"),
    path("inbox/<str:name>/", inbox.message, name="message"),
]
