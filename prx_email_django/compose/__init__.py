"""The arguments of a call as a validated draft; nothing is written here."""
