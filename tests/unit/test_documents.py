# SPDX-License-Identifier: Apache-2.0
"""What the documents name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLAIMS = (ROOT / "docs/claims.md").read_text()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/[^`]*::[^`]*)`", CLAIMS))))
def test_a_test_of_the_claims(name: str) -> None:
    path, _, test = name.partition("::")
    assert re.search(rf"^(async )?def {re.escape(test)}\(", (ROOT / path).read_text(), re.MULTILINE)


@pytest.mark.parametrize("row", re.findall(r"`((?:src|bpf)/[^`]*)` \(([^)]*)\)", CLAIMS))
def test_code_of_the_claims(row: tuple[str, str]) -> None:
    path, names = row
    text = (ROOT / path).read_text()
    for name in re.findall(r"`(\w+)`", names):
        assert re.search(rf"\b{name}\(", text), name


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")))
def test_a_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target
