# SPDX-License-Identifier: Apache-2.0
"""What the documents name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLAIMS = (ROOT / "docs/claims.md").read_text()
FAILURES = (ROOT / "docs/failures.md").read_text()
TESTS = set(re.findall(r"`(tests/[^`]*::[^`]*)`", CLAIMS + FAILURES))


@pytest.mark.parametrize("name", sorted(TESTS))
def test_a_test_of_the_claims_and_failures(name: str) -> None:
    path, _, test = name.partition("::")
    assert re.search(rf"^(async )?def {re.escape(test)}\(", (ROOT / path).read_text(), re.MULTILINE)


@pytest.mark.parametrize("row", re.findall(r"`((?:src|bpf)/[^`]*)` \(([^)]*)\)", CLAIMS))
def test_code_of_the_claims(row: tuple[str, str]) -> None:
    path, names = row
    text = (ROOT / path).read_text()
    for name in re.findall(r"`(\w+)`", names):
        assert re.search(rf"\b{name}\(", text), name


@pytest.mark.parametrize("row", re.findall(r"^\|(?! what |---)(.*)\|$", FAILURES, re.MULTILINE))
def test_each_failure_names_its_test_or_has_none(row: str) -> None:
    cells = [cell.strip() for cell in row.split("|")]
    assert len(cells) == 5
    assert "tests/" in cells[4] or cells[4] in ("not tested", "as above")


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")))
def test_a_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target
