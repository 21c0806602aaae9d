"""Mail of other outbox packages, moved into this outbox: django-post_office and django-mailer.

``manage.py outbox_import`` calls this package.  A ``Source`` reads and marks the other package's rows, ``moving`` moves
waiting mail in both directions, ``history`` copies what the other package has sent.  The other package must be in
INSTALLED_APPS; its modules are imported only when the command runs.
"""

from prx_email_django.contrib.importing.mailer import MailerSource
from prx_email_django.contrib.importing.post_office import PostOfficeSource
from prx_email_django.contrib.importing.source import ImportRefused, RowRefused, Source

__all__ = ["SOURCES", "ImportRefused", "RowRefused", "Source"]

#: Argument of the command -> the class that reads that package's rows.
SOURCES: dict[str, type[Source]] = {"post_office": PostOfficeSource, "mailer": MailerSource}
