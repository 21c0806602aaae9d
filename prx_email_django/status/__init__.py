"""Figures about the outbox, and sentences that say why something waits.  Reads only; writes nothing."""
