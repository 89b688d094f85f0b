"""docs/protocol.md is the law; what the code says twice must be said there in the same words."""

from __future__ import annotations

import re
from pathlib import Path

from tolsey.protocol import encoding, job, lifecycle, offer

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
TABLE = PAGE.split("## 3.", 1)[1].split("### 3.1", 1)[0]
OFF_PAGE = {"tolsey/listing/1", "tolsey/steps/1"}


def test_offer_type_on_the_page_equals_the_code() -> None:
    written = re.search(r"^Offer\((.*?)\)", PAGE, re.S | re.M)
    assert written is not None
    one_line = re.sub(r",\s+", ",", written.group(1))
    assert f"Offer({one_line})" == offer.OFFER_TYPE


def test_every_domain_tag_stands_on_the_page() -> None:
    tags = {value.decode() for name, value in vars(encoding).items() if name.startswith("TAG_")}
    missing = {t for t in tags - OFF_PAGE if t not in PAGE}
    assert missing == set()


def test_class_of_each_exact_profile_stands_on_the_page() -> None:
    for profile, class_id in job.EXACT_CLASSES.items():
        assert f"`{profile}`: 0x{class_id.hex()} |" in PAGE


def test_every_transition_stands_in_the_table() -> None:
    for row in lifecycle.TRANSITIONS:
        lines = [line for line in TABLE.splitlines() if line.startswith("|") and row.call in line]
        assert any(row.before.name.title() in line for line in lines), row


def test_every_state_of_the_table_is_a_state() -> None:
    names = {state.name.title() for state in lifecycle.State}
    cells = [line.split("|") for line in TABLE.splitlines() if re.match(r"\| \d", line)]
    assert len(cells) >= 15
    for cell in cells:
        for word in re.findall(r"[A-Z][a-z]+", cell[2] + (cell[5] if "same" not in cell[5] else "")):
            assert word in names, (word, cell)
