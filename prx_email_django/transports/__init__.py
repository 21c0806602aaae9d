"""Transports: real SMTP, and two local ones (memory, console) that keep the same contract (``base``).

``TRANSPORT = "smtp"`` is ``smtp.connection.SmtpTransport``; the others are ``memory.shared`` and ``ConsoleTransport``.
"""
