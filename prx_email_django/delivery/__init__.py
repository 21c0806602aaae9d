"""Claim, render, transmit, finalize: the network on a loop of its own, the database on the caller's thread."""

from prx_email_django.delivery.account import LIMITED
from prx_email_django.delivery.announce import announce
from prx_email_django.delivery.drain import Drain
from prx_email_django.delivery.single import deliver, give_up, simulate

__all__ = ["LIMITED", "Drain", "announce", "deliver", "give_up", "simulate"]
