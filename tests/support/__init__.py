"""Helpers for tests: mail servers that misbehave on demand, clocks, threads, documents, factories."""
