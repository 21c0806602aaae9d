"""SMTP: connecting and authentication by aiosmtplib, everything after that on a protocol of our own."""
