"""A small bookshop: an order and its receipt are committed in one transaction."""
