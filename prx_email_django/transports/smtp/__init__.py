"""SMTP (RFC 5321).  aiosmtplib connects and authenticates; everything after that is done by the modules here.

connection: opens a session (the only user of aiosmtplib).  connect: sockets and TLS.  auth: SASL mechanisms.
session, session_state: the messages of one connection.  transaction, transaction_state: one message.
protocol: bytes and deadlines.  commands: what is written.
replies: parser.  reply_table, reply_rules: what a reply means.  trial, dry_run: sessions without a message.
"""
