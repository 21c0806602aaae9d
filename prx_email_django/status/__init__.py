"""How the outbox stands: figures, and sentences that say why something waits.  Reads only."""
