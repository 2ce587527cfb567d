# SPDX-License-Identifier: Apache-2.0
"""The picture of the results: goodput, waste and CPU side by side, as SVG written by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

Figures = dict[str, float]

OURS, THEIRS, PALE = "#0f766e", "#9aa5b1", "#99d5cd"
FONT = 'font-family="system-ui, Segoe UI, Helvetica, Arial, sans-serif"'
ROW, BAR, GAP = 30, 16, 18
CHARACTER, COLUMN, NUMBERS = 7.2, 220, 92
TOP = 92


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A column of bars. figure: what the bar shows; beyond: a paler part that follows it; text: beside the bar."""

    title: str
    unit: str
    figure: Callable[[Figures], float]
    beyond: Callable[[Figures], float]
    text: Callable[[Figures], str]


def _seconds(value: float | None) -> str:
    return "?" if value is None else f"{value:.1f}"


PANELS = (
    Panel(
        title="Goodput",
        unit="MB/s, more is better; pale: without the simulated flash",
        figure=lambda f: f["mb_per_s"],
        beyond=lambda f: f["mb_per_s_without_flash"] - f["mb_per_s"],
        text=lambda f: f"{f['mb_per_s']:.0f}",
    ),
    Panel(
        title="Waste",
        unit="bytes sent beyond each 100 delivered, both ways",
        figure=lambda f: 100 * (f["bytes_sent_per_byte_delivered"] - 1),
        beyond=lambda f: 0.0,
        text=lambda f: f"{100 * (f['bytes_sent_per_byte_delivered'] - 1):.2f}",
    ),
    Panel(
        title="CPU",
        unit="seconds per GB: server + device (pale)",
        figure=lambda f: f.get("server_cpu_s_per_gb", 0.0),
        beyond=lambda f: f["device_cpu_s_per_gb"],
        text=lambda f: f"{_seconds(f.get('server_cpu_s_per_gb'))} + {_seconds(f['device_cpu_s_per_gb'])}",
    ),
)


def draw(medians: dict[str, Figures], *, caption: str, panels: tuple[Panel, ...] = PANELS) -> str:
    """The SVG text; rows in the order of `medians`, a gap where what is before the colon changes."""
    rows: list[tuple[float, str, Figures]] = []
    y, direction = float(TOP), ""
    for name, figures in medians.items():
        if direction and name.partition(":")[0] != direction:
            y += GAP
        direction = name.partition(":")[0]
        rows.append((y, name, figures))
        y += ROW
    labels = 32 + round(CHARACTER * max(map(len, medians), default=0))
    width, height = labels + len(panels) * (COLUMN + NUMBERS) + 20, y + 16
    box = f'width="{width}" height="{height:.0f}" viewBox="0 0 {width} {height:.0f}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" aria-label="{escape(caption)}" {FONT}>',
        f'<rect width="{width}" height="{height:.0f}" fill="#ffffff"/>',
        _text(16, 28, caption, size=14, weight=600),
    ]
    for at, name, _ in rows:
        ours = "unbrickd" in name
        parts.append(_text(16, at + 13, name.replace(":", "  "), weight=600 if ours else 400))
    for index, panel in enumerate(panels):
        parts += _panel(panel, rows, x=labels + index * (COLUMN + NUMBERS))
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, rows: list[tuple[float, str, Figures]], *, x: float) -> list[str]:
    longest = max((panel.figure(f) + panel.beyond(f) for _, _, f in rows), default=0.0) or 1.0
    parts = [_text(x, 58, panel.title, weight=600), _text(x, 75, panel.unit, size=10, fill="#616e7c")]
    for y, name, figures in rows:
        dark, pale = (OURS, PALE) if "unbrickd" in name else (THEIRS, "#d9dee4")
        first = panel.figure(figures) / longest * COLUMN * 0.8
        second = panel.beyond(figures) / longest * COLUMN * 0.8
        parts.append(_bar(x, y, first, dark))
        if second > 0:
            parts.append(_bar(x + first, y, second, pale))
        parts.append(_text(x + first + max(0.0, second) + 6, y + 13, panel.text(figures)))
    return parts


def _bar(x: float, y: float, width: float, fill: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(1.0, width):.1f}" height="{BAR}" fill="{fill}"/>'


def _text(x: float, y: float, text: str, *, size: int = 13, weight: int = 400, fill: str = "#1f2933") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{fill}">{escape(text)}</text>'
    )
