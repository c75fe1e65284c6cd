"""Rows of figures as markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

#: A line of a table: values by column.
Row = dict[str, Any]


def markdown_table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Write rows as a markdown table; a column with a ``_se`` beside it shows its error."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = [_cell(row.get(column), row.get(f"{column}_se")) for column in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: Any, error: float | None) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    text = f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
    return text if error is None or not np.isfinite(error) else f"{text} ± {error:.3f}"
