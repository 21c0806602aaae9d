"""A small shop that mails through the outbox, with a mail server of its own: ``make demo`` and ``make serve``."""
