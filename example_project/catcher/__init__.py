"""A mail server on this machine that keeps what it takes and delivers nowhere.

It speaks TLS, demands a login, and plays a part for three recipients:

    nobody@…   is refused for good
    busy@…     is told to come later, and taken at the next attempt
    silent@…   is taken, but the first time the connection breaks before the server says so
"""
