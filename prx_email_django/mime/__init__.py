"""Messages as bytes: rendering, and reading of messages that others made.  Pure: no Django and no database."""
