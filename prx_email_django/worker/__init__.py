"""Claim, render, transmit, finalize: the network on a loop of its own, the database on the caller's thread."""
