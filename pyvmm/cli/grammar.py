"""``KEY=VALUE,KEY=VALUE``: how QEMU writes options, and names."""

from __future__ import annotations

from pyvmm.config import switch
from pyvmm.errors import ConfigError


def pairs(option: str, text: str) -> list[tuple[str, str]]:
    """The keys and values of ``-option text``; a comma inside a value is written ``,,``.

    Raises:
        ConfigError: a part is no KEY=VALUE.
    """
    found = []
    for part in text.replace(",,", "\0").split(",") if text else []:
        part = part.replace("\0", ",")
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise ConfigError(f"-{option} {text}: write '{part}' as KEY=VALUE")
        found.append((key, value))
    return found


def identifier(option: str, text: str, name: str) -> str:
    """``name`` when it may be an id. Raises ConfigError."""
    if not (name.isascii() and name[:1].isalpha() and name.replace("-", "").replace(".", "").replace("_", "").isalnum()):
        raise ConfigError(f"-{option} {text}: '{name}' is no id: write letters, digits, '-', '.' and '_', a letter first")
    return name


def flag(option: str, text: str, key: str, value: str) -> bool:
    """``value`` as on or off. Raises ConfigError."""
    found = switch(value)
    if found is None:
        raise ConfigError(f"-{option} {text}: write {key}=on or {key}=off")
    return found


def choice(option: str, text: str, key: str, value: str, known: tuple[str, ...]) -> str:
    """``value`` when it is one of ``known``. Raises ConfigError, which names them."""
    if value not in known:
        raise ConfigError(f"-{option} {text}: {key}={value} is not supported: write {key}={'|'.join(known)}")
    return value
