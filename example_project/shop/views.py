"""What a customer sees: the books, an order, and what became of the receipt."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from example_project.shop.books import BOOKS, BY_SLUG
from example_project.shop.forms import OrderForm
from example_project.shop.models import Order
from example_project.shop.orders import PaymentFailed, place_order, receipt_of


@require_safe
def shop(request: HttpRequest) -> HttpResponse:
    """Show the books."""
    return render(request, "shop/shop.html", {"books": BOOKS})


@require_http_methods(["GET", "HEAD", "POST"])
def order(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the order form of one book, and take the order."""
    if slug not in BY_SLUG:
        raise Http404
    form = OrderForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            placed, _ = place_order(book=BY_SLUG[slug].title, **form.cleaned_data)
        except PaymentFailed:
            messages.error(request, "The payment failed: neither an order nor a receipt exists.")
            return redirect("order", slug)
        return redirect("ordered", placed.pk)
    return render(request, "shop/order.html", {"form": form, "book": BY_SLUG[slug]})


@require_safe
def ordered(request: HttpRequest, pk: int) -> HttpResponse:
    """Show an order and, in a customer's words, how its receipt stands."""
    placed = get_object_or_404(Order, pk=pk)
    return render(request, "shop/ordered.html", {"order": placed, "receipt": receipt_of(placed)})
