"""The command that empties the database after each transactional test: no test finds rows of another test."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.core.management import call_command
from django.db import connection
from django_q.models import Schedule

from prx_email_django import tasks
from prx_email_django.models import Recipient
from tests.support.factories import account, backlog
from tests.support.flush.management.commands.flush import KEPT

pytestmark = pytest.mark.django_db(transaction=True)


def filled() -> set[str]:
    """The tables of models that have rows."""
    found = set()
    with connection.cursor() as cursor:
        for table in connection.introspection.django_table_names(only_existing=True, include_views=False):
            cursor.execute(f"SELECT 1 FROM {connection.ops.quote_name(table)} LIMIT 1")
            if cursor.fetchone():
                found.add(table)
    return found


def test_no_row_of_a_test_is_left_for_the_next_one() -> None:
    written = {*KEPT, "django_q_schedule"} - {"django_migrations"}  # a table without a model
    assert filled() == written
    backlog(account(), 3)
    group = Group.objects.create(name="operators")
    group.permissions.add(Permission.objects.first())
    User.objects.create(username="ann").groups.add(group)
    Schedule.objects.update(minutes=7)
    Schedule.objects.create(func="a.copy")
    assert Recipient.objects.exists()
    assert filled() > {*written, "auth_group_permissions", "auth_user_groups"}
    call_command("flush", interactive=False, verbosity=0)
    assert filled() == written
    (schedule,) = Schedule.objects.all()
    assert (schedule.name, schedule.minutes) == (tasks.SCHEDULE_NAME, 1)
