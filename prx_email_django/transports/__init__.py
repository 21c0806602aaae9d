"""Ways to hand a message to a server: real SMTP, and doubles that keep the same contract."""
