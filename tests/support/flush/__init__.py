"""An app whose command `flush` empties the test database after a transactional test: see management/commands."""
