"""The demo of ``make demo``: steps that are run, checked and printed one after the other."""
