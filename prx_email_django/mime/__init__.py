"""Rendering: an envelope value in, the octets that go over the wire out.  Pure; knows neither Django nor a database."""
