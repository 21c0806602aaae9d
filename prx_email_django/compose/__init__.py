"""From the arguments of a call to a validated ``Draft``: accounts, addresses, options, attachments.  Writes nothing."""
