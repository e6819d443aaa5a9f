"""What may be a PIN, and how a card number is read. Pure."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

PIN_LEAST, PIN_MOST = 4, 8  # digits
CARD_LEAST, CARD_MOST = 8, 32  # characters; four of them are shown again, so eight are the least
CARD_SHOWN = 4
#: Guessed first: straight down the middle of a keypad, its corners, and what films and lists of leaked PINs repeat.
GUESSED_FIRST = frozenset({"2580", "0852", "1379", "1397", "3179", "1004", "2468", "1357", "8642", "112233"})

TRIES = 5  # wrong PINs in a row before a PIN is locked
FIRST_LOCK = timedelta(minutes=15)
LONGEST_LOCK = timedelta(hours=24)


def pin_problem(pin: str) -> str:
    """Why this cannot be a PIN, in one sentence; empty when it can."""
    if not (pin.isascii() and pin.isdigit() and PIN_LEAST <= len(pin) <= PIN_MOST):
        return f"A PIN has {PIN_LEAST} to {PIN_MOST} digits."
    if _is_trivial(pin):
        return "This PIN is among the first that anybody would guess. Choose another one."
    return ""


def _is_trivial(pin: str) -> bool:
    """A piece repeated, a run up or down (7890 too), a year that people are born in, or a known favourite."""
    steps = {(int(after) - int(before)) % 10 for before, after in pairwise(pin)}
    if steps in ({0}, {1}, {9}) or pin in GUESSED_FIRST or (len(pin) == 4 and "1930" <= pin <= "2030"):
        return True
    pieces = (pin[:size] for size in range(1, len(pin) // 2 + 1) if len(pin) % size == 0)
    return any(pin == piece * (len(pin) // len(piece)) for piece in pieces)


def read_card_number(text: str) -> str:
    """A number as a reader types it or a person does: without spaces, dashes and colons, in capitals. ValueError when
    that is no card number."""
    number = "".join(text.split()).translate({ord(sign): None for sign in "-:"})
    # before capitals are made: those of some other letters are ASCII
    if not (number.isascii() and number.isalnum() and CARD_LEAST <= len(number) <= CARD_MOST):
        raise ValueError(f"A card number has {CARD_LEAST} to {CARD_MOST} digits or letters.")
    return number.upper()


def lock_after(failures: int) -> timedelta | None:
    """How long a PIN is locked by its `failures`-th wrong try in a row: every fifth, twice as long each time."""
    if failures <= 0 or failures % TRIES:
        return None
    doublings = min(failures // TRIES - 1, 16)  # far beyond the longest lock, and no overflow
    return min(FIRST_LOCK * 2**doublings, LONGEST_LOCK)
