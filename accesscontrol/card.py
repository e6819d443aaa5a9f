"""A model card as blocks that a template shows. Pure. Reads the small part of Markdown that cards use, and no HTML.

What it does not know stays as the text it is: a template escapes everything.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

_PIECE = re.compile(r"\*\*(?P<strong>.+?)\*\*|`(?P<code>[^`]+)`|\[(?P<link>[^\]]+)\]\([^)]*\)")
_RULER = re.compile(r"\|?[\s:|-]+\|?")


@dataclass(frozen=True)
class Piece:
    """A run of text; `style` is "", "strong" or "code"."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Block:
    """`kind`: heading, text, list or table. A list has `items`; a table has `rows` of cells, the first its head."""

    kind: str
    pieces: list[Piece] = field(default_factory=list)
    items: list[list[Piece]] = field(default_factory=list)
    rows: list[list[list[Piece]]] = field(default_factory=list)


def read_card(text: str) -> list[Block]:
    """The card without its first heading, which a page states in its own words."""
    blocks: list[Block] = []
    for number, chunk in enumerate(re.split(r"\n\s*\n", text.strip())):
        lines = [line.rstrip() for line in chunk.splitlines() if line.strip()]
        while lines:
            taken = _take(lines, blocks)
            lines = lines[taken:]
        if number == 0 and blocks and blocks[0].kind == "heading":
            blocks.pop(0)
    return blocks


def _take(lines: list[str], blocks: list[Block]) -> int:
    """Appends the block that begins with the first line and says how many lines it took."""
    first = lines[0].lstrip()
    if first.startswith("#"):
        blocks.append(Block("heading", pieces_of(first.lstrip("#").strip())))
        return 1
    if first.startswith("|"):
        count = _while(lines, lambda line: line.lstrip().startswith("|"))
        rows = [
            [pieces_of(cell.strip()) for cell in line.strip().strip("|").split("|")]
            for line in lines[:count]
            if not _RULER.fullmatch(line.strip())
        ]
        blocks.append(Block("table", rows=rows))
        return count
    if first.startswith(("- ", "* ")):
        count = _while(lines, lambda line: line.lstrip().startswith(("- ", "* ")) or line.startswith("  "))
        items: list[str] = []
        for line in lines[:count]:
            stripped = line.strip()
            if line.lstrip().startswith(("- ", "* ")):
                items.append(stripped[2:])
            else:
                items[-1] += f" {stripped}"
        blocks.append(Block("list", items=[pieces_of(item) for item in items]))
        return count
    count = _while(lines, lambda line: not line.lstrip().startswith(("#", "|", "- ")))
    blocks.append(Block("text", pieces_of(" ".join(line.strip() for line in lines[:count]))))
    return count


def _while(lines: list[str], holds: Callable[[str], bool]) -> int:
    count = 0
    for line in lines:
        if not holds(line):
            break
        count += 1
    return max(1, count)


def pieces_of(text: str) -> list[Piece]:
    """`**strong**`, `` `code` `` and the words of links told apart."""
    pieces, at = [], 0
    for match in _PIECE.finditer(text):
        if match.start() > at:
            pieces.append(Piece(text[at : match.start()]))
        style = match.lastgroup or ""
        pieces.append(Piece(match[style], "" if style == "link" else style))
        at = match.end()
    if at < len(text):
        pieces.append(Piece(text[at:]))
    return pieces
