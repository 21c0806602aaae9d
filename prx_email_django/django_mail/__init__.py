"""Django's ``EmailMessage`` as a draft of the outbox, and the options of the email backend."""
