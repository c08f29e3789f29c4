"""Test that every health label fits its column, and that operators can read what it means."""

import pytest

from schema.health import HealthLabel
from schema.tables import monitor_health
from testbed.paths import CHECKOUT


@pytest.mark.parametrize("label", HealthLabel)
def test_label_fits_its_column_and_is_documented(label: HealthLabel) -> None:
    assert len(label) <= monitor_health.c.label.type.length
    section = (CHECKOUT / "docs/operating.md").read_text().partition("#### The health of monitors")[2]
    rows = [line for line in section.partition("\n### ")[0].splitlines() if line.startswith("| `")]
    assert any(f"`{label}`" in row.split("|")[1] for row in rows)
