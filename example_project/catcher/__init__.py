"""A mail server on this machine that stores every message and delivers none.

It requires TLS and authentication (but for its port in clear text), and handles three recipients in a special way:

    nobody@…   is always refused
    busy@…     is refused temporarily, and accepted at the next attempt
    silent@…   is accepted, but at the first attempt the connection is lost before the server's reply

``mode.py`` holds what else it does: a person chooses that on the operator's page.
"""
