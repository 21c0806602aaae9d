"""The parts of ``make bench``: each candidate runs in its own process, with the same mail sink and database."""
