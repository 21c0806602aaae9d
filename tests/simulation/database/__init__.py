"""Django database backend: SQLite that goes away, refuses writes and meets conflicts as the simulated world says."""
