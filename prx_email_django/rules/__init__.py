"""Rules as pure functions of values: no database and no settings, and only ``clock`` reads the time."""
