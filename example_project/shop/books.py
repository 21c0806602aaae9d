"""The books that the shop sells."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Book:
    """A book, with the hue of its cover in degrees."""

    slug: str
    title: str
    author: str
    price: str
    blurb: str
    hue: int


BOOKS = (
    Book("lighthouse", "The Lighthouse", "Ida Holm", "14.00", "A keeper, a storm, and a letter without a sender.", 205),
    Book(
        "night-train", "Night Train North", "Samir Adel", "12.50", "Eleven stations, nine passengers, one watch.", 262
    ),
    Book("salt", "A Garden of Salt", "Maria Voss", "18.00", "What grows where the sea has been.", 158),
    Book("clockmaker", "The Clockmaker's Error", "J. P. Okoro", "11.00", "He was never late. Once was enough.", 24),
)
BY_SLUG = {book.slug: book for book in BOOKS}
