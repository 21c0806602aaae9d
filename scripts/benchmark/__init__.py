"""The benchmark behind ``make bench``: contestants in processes of their own, on the same sink and database."""
