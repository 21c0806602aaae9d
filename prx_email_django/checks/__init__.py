"""System checks: one id a rule, each with a hint.  Importing this package registers them.

E001–E005 and W001–W005 are the rules of ``conf.problems``, from E030 and W030 on they are those of ``checks_mailers``;
the others stand beside their check.
"""

from django.core.checks import register

from prx_email_django.checks import cluster, database, project
from prx_email_django.checks.mailers import check_admin_email_handler, check_mailers

__all__ = ["cluster", "database", "project"]

for _check in (check_mailers, check_admin_email_handler):
    register(_check, project.TAG)
