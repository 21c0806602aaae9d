"""The values of ``PRX_EMAIL`` by attribute, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.core import checks
from django.utils.module_loading import import_string

from prx_email_django.conf.reader import NAME, prx_email
from prx_email_django.conf.table import SETTINGS, Setting
from prx_email_django.rules.spelling import closest
from prx_email_django.rules.text import shown_name
from prx_email_django.rules.words import Words
from prx_email_django.rules.words import words as _

_NAMES = tuple(setting.name for setting in SETTINGS)


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with the setting ``key``: the message, what to write (``hint``), and the ``id`` of the system check."""

    key: str
    message: Words
    hint: Words
    id: str

    @property
    def level(self) -> int:
        """``checks.ERROR``, or ``checks.WARNING`` for a value that works but is risky."""
        return checks.WARNING if ".W" in self.id else checks.ERROR


def read_values() -> tuple[dict[str, Any], list[Problem]]:
    """The values that could be read, by attribute, and the problems with the others."""
    raw: object = prx_email()
    if not isinstance(raw, Mapping):
        return {}, [problem("", _("must be a dict."), _('Write PRX_EMAIL = {"INSTANCE": "production"}.'), "E001")]
    values: dict[str, Any] = {}
    found = [_unknown(key, raw) for key in raw if key not in _NAMES]
    for setting in SETTINGS:
        try:
            values[attribute(setting.name)] = setting.kind.read(raw.get(setting.name, setting.default))
        except ValueError as error:
            message, hint = _("%(problem)s.", problem=error), _("Write %(example)s.", example=setting.kind.example)
            found.append(problem(setting.name, message, hint, "E003"))
    return values, found


def attribute(name: str) -> str:
    return "key_source" if name == "CREDENTIAL_KEYS" else name.lower()


def problem(key: str, message: Words, hint: Words, rule: str) -> Problem:
    name = f'{NAME}["{key}"]' if key else NAME
    text = _("%(setting)s %(problem)s", setting=name, problem=message)
    return Problem(key=key or NAME, message=text, hint=hint, id=f"prx_email_django.{rule}")


def _unknown(key: object, raw: Mapping[Any, Any]) -> Problem:
    """Suggest only a setting that is not set yet and that could have this value."""
    fitting = (setting.name for setting in SETTINGS if setting.name not in raw and _reads(setting, raw[key]))
    meant = closest(str(key), fitting)
    hint = _('Did you mean "%(meant)s"?', meant=meant) if meant else _("Known are %(names)s.", names=", ".join(_NAMES))
    return problem(shown_name(str(key)), _("is not a setting of this app."), hint, "E002")


def _reads(setting: Setting, value: object) -> bool:
    try:
        setting.kind.read(value)
    except ValueError:
        return False
    return True


def contradictions(values: Mapping[str, Any]) -> Iterator[Problem]:
    """Values that are valid alone and not together."""
    base, longest = values.get("base_backoff"), values.get("max_backoff")
    if base and longest and base > longest:
        hint = _("Write %(least)s or more, or a smaller BASE_BACKOFF.", least=f"{base.total_seconds():g}")
        yield problem("MAX_BACKOFF", _("must not be shorter than BASE_BACKOFF."), hint, "E004")


def function_named(path: object) -> Callable[..., object] | None:
    """What the dotted path names; None: nothing that can be imported and called."""
    try:
        found = import_string(path) if isinstance(path, str) and "." in path else None
    except ImportError:
        return None
    return found if callable(found) else None
