"""Slots, rate windows, pauses and fetched tokens: rows that all workers on all machines share.

No worker writes an ``Account`` row.
"""
