"""The tour of ``make demo``: steps that are played, checked and told one by one."""

from example_project.tour.run import main

__all__ = ["main"]
