# SPDX-License-Identifier: Apache-2.0
"""Horizontal bars with their spread, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_COLOURS = ("#8c8c8c", "#1f5fa8", "#6ba3d6", "#c2702c", "#7a9a3a", "#8d5aa5")
_LABELS, _BARS, _FIGURES = 330, 420, 90  # pixels across
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


def svg(title: str, groups: Sequence[Group]) -> str:
    """One colour a subject; the thin line goes from the least to the most."""
    subjects = list(dict.fromkeys(bar.subject for group in groups for bar in group.bars))
    scale = _BARS / max([bar.most for group in groups for bar in group.bars] + [1e-9])
    parts, y = [_text(8, 20, title, "bold")], _TOP
    for group in groups:
        parts.append(_text(8, y + 12, group.label))
        for bar in group.bars:
            parts.append(_bar(y, bar, scale, _COLOURS[subjects.index(bar.subject) % 6]))
            y += _BAR
        y += _GAP
    for number, subject in enumerate(subjects):
        parts.append(f'<rect x="8" y="{y}" width="11" height="11" fill="{_COLOURS[number % 6]}"/>')
        parts.append(_text(26, y + 10, subject))
        y += _BAR
    return _whole(_LABELS + _BARS + _FIGURES, y + 8, parts)


def _bar(y: int, bar: Bar, scale: float, colour: str) -> str:
    low, high, middle = (_LABELS + scale * v for v in (bar.least, bar.most, bar.value))
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
