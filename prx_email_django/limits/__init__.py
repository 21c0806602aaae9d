"""Slots, rate windows, pauses and learned tokens: the rows beside the account, shared by all workers on all machines.

No worker writes an ``Account`` row.
"""
