"""Expressions: numbers, registers, symbols, memory and device state, with C's operators and precedence.

    0x7c00  17  0b101  'A'          numbers
    $rip  $eax  $cs.base  $cr3      registers; the dollar may be left out where no symbol has that name
    $pc                             where the next instruction is: its linear address ($rip is an offset in CS)
    main  main+0x10                 symbols: their addresses
    *0x2000  *(int *)0x2000  {char}$rsi      memory of the guest, at linear addresses
    serial0.lcr  pci.address        fields of a device's state
    $  $$  $3  $mine                values printed before, and variables made by ``set $mine = ...``

All arithmetic is unsigned, 64 bits.
"""

from __future__ import annotations

import re

from pyvmm.observe.debug.command import CommandError
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Scope(Protocol):
        """Where names get their values."""

        @property
        def word(self) -> int:
            """Bytes of an address in the guest's mode."""

        def register(self, name: str) -> int | None:
            """A register by name."""

        def variable(self, name: str) -> int | None:
            """What a name after "$" means that is no register."""

        def symbol(self, name: str) -> tuple[int, int] | None:
            """(address, size, 0 when not known)"""

        def device_names(self) -> list[str]:
            """Of the devices that have a state."""

        def device(self, path: str) -> Any:
            """What a path such as "serial0.lcr" leads to; KeyError."""

        def load(self, address: int, size: int) -> int:
            """Linear memory. CommandError."""


ALL = (1 << 64) - 1
_DEEPEST = 40
_LONGEST = 400  # characters
_TYPES = {
    "char": 1, "byte": 1, "short": 2, "word": 2, "int": 4, "long": 8, "u8": 1, "u16": 2, "u32": 4, "u64": 8, "s8": 1, "s16": 2, "s32": 4,
    "s64": 8, "uint8_t": 1, "uint16_t": 2, "uint32_t": 4, "uint64_t": 8, "int8_t": 1, "int16_t": 2, "int32_t": 4, "int64_t": 8,
    "unsigned": 4, "unsigned char": 1, "unsigned short": 2, "unsigned int": 4, "unsigned long": 8, "long long": 8, "dword": 4, "qword": 8,
}  # fmt: skip
_TOKEN = re.compile(
    r"\s*(?:(0[xX][0-9a-fA-F_]+|0[bB][01_]+|\d+)(?![\w])|('(?:[^'\\]|\\.)')|(\$[\w.$]*|[A-Za-z_@][\w.@$]*)|(<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^~!()<>{}\[\]]))"
)
_CAST = re.compile(r"\(\s*([a-z_][a-z0-9_ ]*?)\s*\*\s*\)|\{\s*([a-z_][a-z0-9_ ]*?)\s*\}")
_ESCAPED = {"n": 10, "r": 13, "t": 9, "0": 0, "\\": 92, "'": 39, "b": 8}


def _divide(left: int, right: int) -> int:
    if not right:
        raise CommandError("division by zero")
    return left // right


def _remainder(left: int, right: int) -> int:
    if not right:
        raise CommandError("division by zero")
    return left % right


# operator -> (how tightly it binds, what it does)
_BINARY: dict[str, tuple[int, Callable[[int, int], int]]] = {
    "||": (1, lambda a, b: int(bool(a or b))),
    "&&": (2, lambda a, b: int(bool(a and b))),
    "|": (3, lambda a, b: a | b),
    "^": (4, lambda a, b: a ^ b),
    "&": (5, lambda a, b: a & b),
    "==": (6, lambda a, b: int(a == b)),
    "!=": (6, lambda a, b: int(a != b)),
    "<": (7, lambda a, b: int(a < b)),
    ">": (7, lambda a, b: int(a > b)),
    "<=": (7, lambda a, b: int(a <= b)),
    ">=": (7, lambda a, b: int(a >= b)),
    "<<": (8, lambda a, b: a << b if b < 64 else 0),
    ">>": (8, lambda a, b: a >> b if b < 64 else 0),
    "+": (9, lambda a, b: a + b),
    "-": (9, lambda a, b: a - b),
    "*": (10, lambda a, b: a * b),
    "/": (10, _divide),
    "%": (10, _remainder),
}


class Value(Record):
    """What an expression comes to.

    Fields:
        number: it.
        address: linear address when it stands for memory; None otherwise.
        size: bytes of that memory, or of the value; 0 when nobody said.
        register: the register it is, or "".
        variable: the variable it is or may become, or "".
        symbol: it is a symbol's address.
        device: the path it came from, or "".
        thing: a device's state or field that is no number.
    """

    number: int = 0
    address: int | None = None
    size: int = 0
    register: str = ""
    variable: str = ""
    symbol: str = ""
    device: str = ""
    thing: Any = None


def evaluate(text: str, scope: Scope) -> Value:
    """The value of a whole text. Raises CommandError, one line."""
    parser = _Parser(text, scope)
    value = parser.expression(0)
    parser.end()
    return value


def prefix(text: str, scope: Scope) -> tuple[Value, str]:
    """The value of the expression a text begins with, and the rest of it. Raises CommandError."""
    parser = _Parser(text, scope)
    value = parser.expression(0)
    return value, text[parser.at :].strip()


def number(text: str, scope: Scope) -> int:
    """``evaluate`` for who wants a number and nothing else."""
    value = evaluate(text, scope)
    return plain_number(value, text)


def plain_number(value: Value, text: str) -> int:
    """A Value's number. CommandError for what is none."""
    if value.thing is not None:
        raise CommandError(f"{text[:40]} is no number")
    if value.variable and not value.register:
        raise CommandError(f"${value.variable} is neither a register nor a variable")
    return value.number


class _Parser:
    """Precedence climbing; ``at`` is how far it has come."""

    def __init__(self, text: str, scope: Scope) -> None:
        if len(text) > _LONGEST:
            raise CommandError(f"an expression of {len(text)} characters is too long")
        self.text = text
        self.scope = scope
        self.at = 0
        self.depth = 0

    def end(self) -> None:
        """Raises CommandError when something follows."""
        rest = self.text[self.at :].strip()
        if rest:
            raise CommandError(f"'{rest[:40]}' is not understood")

    def peek(self) -> tuple[str, int]:
        """The next token and where it ends; "" at the end or where there is none."""
        match = _TOKEN.match(self.text, self.at)
        return (match[match.lastindex or 0].strip(), match.end()) if match else ("", self.at)

    def expression(self, least: int) -> Value:
        """Operators that bind at least that tightly."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise CommandError("the expression is nested too deeply")
        left = self.unary()
        while True:
            operator, end = self.peek()
            binds, compute = _BINARY.get(operator, (0, None))
            if compute is None or binds <= least:
                self.depth -= 1
                return left
            self.at = end
            right = self.expression(binds)
            left = Value(number=compute(plain_number(left, "the left side"), plain_number(right, "the right side")) & ALL)

    def unary(self) -> Value:
        """What stands before an operand."""
        operator, end = self.peek()
        if operator in ("*", "-", "+", "~", "!", "&"):
            self.at = end
            self.depth += 1
            if self.depth > _DEEPEST:
                raise CommandError("the expression is nested too deeply")
            if operator == "*":
                value = self.memory(*self.cast())
            else:
                operand = self.unary()
                if operator == "&":
                    if operand.address is None and not operand.symbol:
                        raise CommandError("& wants something that is in memory")
                    value = Value(number=operand.number if operand.symbol else operand.address or 0)
                else:
                    number = plain_number(operand, "the operand")
                    value = Value(number={"-": -number, "+": number, "~": ~number, "!": int(not number)}[operator] & ALL)
            self.depth -= 1
            return value
        if operator == "{":
            return self.memory(*self.cast())
        if operator == "(" and _CAST.match(self.text, end - 1):
            _, operand = self.cast()
            return Value(number=operand.number)
        return self.operand()

    def cast(self) -> tuple[int, Value]:
        """An operand with a type in front of it, or without: (its size or 0, the operand)."""
        match = _CAST.match(self.text, self.at + len(self.text[self.at :]) - len(self.text[self.at :].lstrip()))
        size = 0
        if match:
            name = " ".join((match[1] or match[2]).split())
            if name not in _TYPES:
                raise CommandError(f"type '{name[:40]}' is not known; there are {', '.join(list(_TYPES)[:6])}, u8 to u64")
            size, self.at = _TYPES[name], match.end()
        return size, self.unary()

    def memory(self, size: int, operand: Value) -> Value:
        """What is at an address."""
        address = plain_number(operand, "the address")
        size = size or self.scope.word
        return Value(number=self.scope.load(address, size), address=address, size=size)

    def operand(self) -> Value:
        """A number, a name, or something in parentheses."""
        token, end = self.peek()
        device = self.device()
        if device is not None:
            return device
        if not token:
            rest = self.text[self.at :].strip()
            raise CommandError(f"'{rest[:40]}' is not understood" if rest else "something is missing at the end of the expression")
        self.at = end
        if token[0].isdigit():
            return Value(number=_number(token))
        if token[0] == "'":
            return Value(number=_ESCAPED.get(token[2], ord(token[2])) if token[1] == "\\" else ord(token[1]), size=1)
        if token[0] == "$":
            return self.dollar(token[1:])
        if token == "(":
            value = self.expression(0)
            closing, end = self.peek()
            if closing != ")":
                raise CommandError("a ')' is missing")
            self.at = end
            return value
        if token[0].isalpha() or token[0] in "_@":
            return self.name(token)
        raise CommandError(f"'{token}' is not understood here")

    def dollar(self, name: str) -> Value:
        """A register, a variable, a value printed before."""
        found = self.scope.register(name) if name else None
        if found is not None:
            return Value(number=found, register=name.lower())
        found = self.scope.variable(name)
        if found is not None:
            return Value(number=found)
        return Value(variable=name)

    def name(self, name: str) -> Value:
        """A symbol, else a register whose dollar was left out."""
        symbol = self.scope.symbol(name)
        if symbol is not None:
            return Value(number=symbol[0], size=symbol[1], symbol=name)
        found = self.scope.register(name)
        if found is not None:
            return Value(number=found, register=name.lower())
        raise CommandError(f"there is no symbol, register or device called '{name[:60]}'")

    def device(self) -> Value | None:
        """A path that begins with a device's name, which may have dashes; None when there is none here."""
        begin = len(self.text) - len(self.text[self.at :].lstrip())
        for name in sorted(self.scope.device_names(), key=len, reverse=True):
            if not self.text.startswith(name, begin):
                continue
            match = _PATH.match(self.text, begin + len(name))
            rest = match[0] if match else ""
            if not rest and self.text[begin + len(name) : begin + len(name) + 1].isalnum():
                continue
            path = name + rest
            if self.scope.symbol(path) is not None:
                return None
            try:
                found = self.scope.device(path)
            except (LookupError, ValueError):
                raise CommandError(f"{name} has no '{rest.lstrip('.')[:40]}' in its state; print {name} shows what it has") from None
            self.at = begin + len(path)
            if isinstance(found, int):
                return Value(number=int(found) & ALL, device=path)
            return Value(thing=found, device=path)
        return None


_PATH = re.compile(r"(?:\.\w+|\[\w+\])+")


def _number(text: str) -> int:
    try:
        value = int(text, 0) if text[:2].lower() in ("0x", "0b") else int(text)
    except ValueError:
        raise CommandError(f"'{text[:40]}' is no number") from None
    if value > ALL:
        raise CommandError(f"{text[:40]} has more than 64 bits")
    return value
