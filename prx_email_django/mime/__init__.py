"""Rendering: an envelope value in, the octets that go over the wire out.  Pure; knows neither Django nor a database."""

from __future__ import annotations

from prx_email_django.mime.identity import message_id, reply_references, reply_subject
from prx_email_django.mime.inbound import Inbound, parse_inbound
from prx_email_django.mime.letter import Letter, Part
from prx_email_django.mime.rendering import render

__all__ = [
    "Inbound",
    "Letter",
    "Part",
    "message_id",
    "parse_inbound",
    "render",
    "reply_references",
    "reply_subject",
]
