"""A small shop that sends email through the outbox, with its own mail server: ``make demo`` and ``make serve``."""
