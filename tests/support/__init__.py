"""Helpers of the tests' own: servers that can be told to misbehave."""
