"""The lowering page is what the passes print today."""

from pathlib import Path

from scheduler import docs

PAGE = Path(docs.__file__).parent / "README.md"


def test_the_lowering_page_is_current():
    assert docs.main(["--check"]) == 0, f"run: {docs.COMMAND}"


def test_a_stale_page_is_noticed_and_filled(tmp_path, capsys):
    page = tmp_path / "README.md"
    page.write_text(PAGE.read_text().replace("After pass 2", "After pass 7"))
    assert docs.main(["--check", "--page", str(page)]) == 1
    assert capsys.readouterr().err == "README.md is stale; run: python -m scheduler.docs\n"
    assert docs.main(["--page", str(page)]) == 0
    assert page.read_text() == PAGE.read_text()
