"""Measure one database: ``flush_outbox --loop`` waits, and messages are queued with pauses between them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import django

from benchmark import environment, messages

#: Messages before the measurement: the loop logs in, and both processes load what they need.
WARM_UP = 5
#: Seconds of an idle loop whose CPU is measured, once its connection has ended.
IDLE = 5.0


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(port: int, *, number: int, accounts: int, longest: float) -> str:
    """Queue ``number`` messages with pauses of up to ``longest`` seconds; return a line of the table."""
    import prx_email_django as prx
    from prx_email_django.models import Account, DeliveryAttempt

    for name in range(accounts):
        Account.objects.create(
            name=f"a{name}", email=messages.SENDER, host="127.0.0.1", port=port, security="none", auth_method="none"
        )
    command = [sys.executable, "-m", "django", "flush_outbox", "--loop", "--json"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as loop, environment.ended(loop):
        queued = {}
        for n in range(WARM_UP + number):
            time.sleep(random.uniform(longest / 7, longest))  # noqa: S311  (so that it is in step with nothing)
            begun = time.time()
            message = prx.enqueue(account="a0", **messages.arguments(n))
            queued[message.pk] = begun, time.time() - begun
        time.sleep(7.0)
        before = cpu_of(loop.pid)
        time.sleep(IDLE)
        idle = (cpu_of(loop.pid) - before) / IDLE
    accepted = dict(DeliveryAttempt.objects.filter(outcome="sent").values_list("message_id", "finished_at"))
    measured = list(queued.items())[WARM_UP:]
    waits = sorted(accepted[pk].timestamp() - begun for pk, (begun, _) in measured)
    calls = sorted(seconds for _, (_, seconds) in measured)
    times = (waits[number // 2], waits[int(number * 0.99)], waits[-1], calls[number // 2])
    return " | ".join([*(f"{1000 * seconds:.0f}" for seconds in times), f"{idle:.1%}"])


def main() -> None:
    """Create the database, measure, and drop it."""
    django.setup()
    from django.db import connection

    number, accounts, longest = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    connection.creation.create_test_db(verbosity=0, autoclobber=True)
    try:
        with environment.folder() as folder:
            sink = environment.Sink(folder)
            with sink.running():
                print(measure(sink.port, number=number, accounts=accounts, longest=longest))
    finally:
        connection.creation.destroy_test_db(str(connection.settings_dict["NAME"]), verbosity=0)


if __name__ == "__main__":
    main()
