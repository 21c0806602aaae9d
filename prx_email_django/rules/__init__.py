"""The rules of the machine as pure functions of values: no database, no settings, no clock of their own."""
