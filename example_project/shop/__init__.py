"""A bookshop of one page: an order and its receipt are committed together, or neither is."""
