"""Simulation of whole drains: the real code on a virtual clock, network and database, driven by a seed.

``python -m tests.simulation --help`` says how to run it; ``make soak`` runs it for an hour.  Begin reading in
``schedule``: what one seed makes happen.
"""
