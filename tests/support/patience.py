"""How long a test waits for what must happen."""

#: Seconds.  A busy machine may stand still for minutes, and that is no failure: only what never happens waits so long.
PATIENCE = 240.0
