"""Links of all pages lead somewhere: to files of the project, and to headings in them; examples run as they stand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("hwgen", "rtl", "sim", "models", "scheduler")
PAGES = [ROOT / "README.md", *sorted(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]
ELSEWHERE = ("models/attention", "models/recipes", "scheduler/attention", "scheduler/training")
"""Folders whose own tests run the examples of their pages and look at what comes of them."""


def examples(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


OTHERS = [page for page in PAGES[1:] if examples(page) and str(page.parent.relative_to(ROOT)) not in ELSEWHERE]


def anchor(heading):
    """The name by which a link finds a heading."""
    shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")


def leads_somewhere(page, link):
    path, _, place = link.partition("#")
    target = page.parent / path if path else page
    target = target / "README.md" if place and target.is_dir() else target
    if not target.exists():
        return False
    return not place or place in map(anchor, re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    assert [link for link in links if not leads_somewhere(page, link)] == []


def test_readme_leads_to_every_folder():
    links = re.findall(r"\]\(([^)#\s]+)\)", (ROOT / "README.md").read_text())
    assert {link.partition("/")[0] for link in links} >= set(FOLDERS)


@pytest.mark.verilator
@pytest.mark.parametrize("page", OTHERS, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run_one_by_one(page):
    for example in examples(page):
        exec(compile(example, str(page), "exec"), {})
