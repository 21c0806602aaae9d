"""Tests: ``unit`` needs no database, ``integration`` a database, ``acceptance`` real sockets, kills and a browser."""
