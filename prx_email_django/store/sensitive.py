"""Sensitive messages: their content is removed in the transaction in which they become sent."""

from __future__ import annotations

from collections.abc import Iterable

from prx_email_django.models import Attachment, Content, OutboxMessage
from prx_email_django.states import Status


def erase_sent(messages: Iterable[OutboxMessage]) -> None:
    """Remove text, HTML, source, headers and files of those that are sensitive and sent; subject and addresses stay.

    No statement without a sensitive one.  To be called in the transaction that marks them as sent.
    """
    ids = [message.pk for message in messages if message.is_sensitive]
    if not ids:
        return
    sent = OutboxMessage.objects.filter(pk__in=ids, status=Status.SENT)
    raws = dict(sent.values_list("pk", "raw_id"))
    files = Attachment.objects.filter(message_id__in=raws)
    # Nobody else refers to them: the content of a sensitive message is not shared.
    contents = [*raws.values(), *files.values_list("content_id", flat=True)]
    sent.update(body_text="", body_html="", headers={}, raw=None, size=0)
    files.update(content=None)
    Content.objects.filter(pk__in=contents, is_private=True).delete()
