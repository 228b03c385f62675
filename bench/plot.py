# SPDX-License-Identifier: Apache-2.0
"""Horizontal bars with their spread, as SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle

from bench.series import DIRECT

_BASE = "#8c8c8c"
_COLOURS = ("#1f5fa8", "#6ba3d6", "#1d3557", "#c2702c", "#7a9a3a", "#8d5aa5")
_LABELS, _BARS, _FIGURES = 360, 420, 90  # pixels across
_BAR, _GAP, _TOP = 15, 12, 34  # pixels down


@dataclass(frozen=True)
class Bar:
    subject: str
    value: float
    least: float
    most: float


@dataclass(frozen=True)
class Group:
    label: str
    bars: Sequence[Bar]


def svg(title: str, groups: Sequence[Group], end: float | None = None) -> str:
    """One colour a subject; the thin line goes from the least to the most.

    The scale ends at `end`, and what is more is cut off; None: each group has its own.
    """
    colours = _colours(bar.subject for group in groups for bar in group.bars)
    parts, y = [_text(8, 20, title, "bold")], _TOP
    for group in groups:
        scale = _BARS / (end or max([bar.most for bar in group.bars] + [1e-9]))
        parts.append(_text(8, y + 12, group.label))
        for bar in group.bars:
            parts.append(_bar(y, bar, scale, colours[bar.subject]))
            y += _BAR
        y += _GAP
    for subject, colour in colours.items():
        parts.append(f'<rect x="8" y="{y}" width="11" height="11" fill="{colour}"/>')
        parts.append(_text(26, y + 10, subject))
        y += _BAR
    return _whole(_LABELS + _BARS + _FIGURES, y + 8, parts)


def _colours(subjects: Iterable[str]) -> dict[str, str]:
    """In the order of their appearance; `direct` is grey."""
    colours = cycle(_COLOURS)
    return {s: _BASE if s == DIRECT else next(colours) for s in dict.fromkeys(subjects)}


def _bar(y: int, bar: Bar, scale: float, colour: str) -> str:
    ends = (min(scale * v, _BARS) for v in (bar.least, bar.most, bar.value))
    low, high, middle = (_LABELS + one for one in ends)
    width, centre = max(middle - _LABELS, 1), y + _BAR / 2 - 1
    return (
        f'<rect x="{_LABELS}" y="{y}" width="{width:.1f}" height="{_BAR - 2}" fill="{colour}"/>'
        f'<path d="M{low:.1f} {centre}H{high:.1f}" stroke="#000" stroke-width="1.5"/>'
        + _text(max(high, middle) + 6, y + 11, figure(bar.value))
    )


def figure(value: float) -> str:
    """Three digits, or all before the point."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x:.0f}" y="{y}" font-weight="{weight}">{escape(text)}</text>'


def _whole(width: int, height: int, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>\n"])
