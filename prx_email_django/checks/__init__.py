"""System checks: one id for each rule, each with a hint.  Importing this package registers the checks.

``conf`` defines the rules E001–E005 and W001–W005, ``checks.mailers`` those from E030 and W030 on.  The id of
every other rule is in the docstring of its check.
"""

from django.core.checks import register

from prx_email_django.checks import accounts, cluster, database, declared, identity, project
from prx_email_django.checks.mailers import check_admin_email_handler, check_mailers

__all__ = ["accounts", "cluster", "database", "declared", "identity", "project"]

for _check in (check_mailers, check_admin_email_handler):
    register(_check, project.TAG)
