"""Django's ``EmailMessage`` as a ``Draft`` of the outbox, and the options of the email backend."""
