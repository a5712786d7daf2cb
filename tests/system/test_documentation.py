"""The documentation as a whole: its index, its links, its words, and the commands that it names."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sitecore_cdp_exporter.cli import main
from tests.markdown import blocks, rows
from tools.exporter_program import ROOT
from tools.links import anchors, broken_links, documents

DOCS = ROOT / "docs"
SOURCE = "https://code.example/exporter"


def text_of(*documents: Path) -> str:
    return "\n".join(document.read_text(encoding="utf-8") for document in documents)


def test_the_index_names_every_page_once() -> None:
    named = re.findall(r"(?m)^- \[[^\]]*\]\((\w[\w.-]*\.md)\)", text_of(DOCS / "README.md"))
    assert sorted(named) == sorted(page.name for page in DOCS.glob("*.md") if page.name != "README.md")


def test_no_link_is_broken() -> None:
    assert broken_links(ROOT) == []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(f'[project.urls]\nSource = "{SOURCE}"\n', encoding="utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text(
        "# A page\n\n```sh\n# no heading\n```\n\n## What `x_y` is, and why?\n\n## Twice\n\n## Twice\n", encoding="utf-8"
    )
    (tmp_path / "docs" / "picture.png").touch()
    (tmp_path / "prometheus").mkdir()
    (tmp_path.parent / f"{tmp_path.name}-outside.md").touch()
    return tmp_path


@pytest.mark.parametrize(
    "link",
    [
        "docs/page.md",
        "docs",
        "docs/page.md#a-page",
        "docs/page.md#what-x_y-is-and-why",
        "docs/page.md#twice-1",
        "docs/picture.png",
        "#here",
        "https://elsewhere.example/gone",
        "mailto:ada@example.com",
        f"{SOURCE}/blob/main/docs/page.md#twice",
        f"{SOURCE}/issues",
    ],
)
def test_a_link_that_leads_somewhere_is_not_reported(link: str, repository: Path) -> None:
    (repository / "README.md").write_text(f"# Here\n\n[link]({link}) ![picture]({link})\n", encoding="utf-8")
    assert broken_links(repository) == []


@pytest.mark.parametrize(
    "link",
    [
        "docs/gone.md",
        "docs/page.md#gone",
        "docs/page.md#no-heading",
        "docs/page.md#twice-2",
        "docs/picture.png#a-page",
        "#gone",
        "page.md",
        "/docs/page.md",
        f"{SOURCE}/blob/main/docs/gone.md",
        f"{SOURCE}/tree/v1.2.3/docs/page.md#gone",
    ],
)
def test_a_link_that_leads_nowhere_is_reported_with_its_line(link: str, repository: Path) -> None:
    (repository / "README.md").write_text(f"# Here\n\n- [link]({link})\n", encoding="utf-8")
    assert broken_links(repository) == [f"README.md:3: {link}"]


def test_links_out_of_the_repository_are_broken(repository: Path) -> None:
    link = f"../{repository.name}-outside.md"
    (repository / "README.md").write_text(f"[link]({link})\n", encoding="utf-8")
    assert broken_links(repository) == [f"README.md:1: {link}"]


def test_links_in_code_are_examples(repository: Path) -> None:
    (repository / "README.md").write_text("`[a](gone.md)`\n\n```\n[b](gone.md)\n```\n", encoding="utf-8")
    assert broken_links(repository) == []


def test_a_picture_that_is_not_there_is_reported(repository: Path) -> None:
    (repository / "README.md").write_text("![a](docs/gone.png)\n", encoding="utf-8")
    assert broken_links(repository) == ["README.md:1: docs/gone.png"]


def test_the_runbook_of_an_alert_is_a_link_too(repository: Path) -> None:
    url = f"{SOURCE}/blob/main/docs/page.md#nosuchalert"
    (repository / "prometheus" / "alerts.yml").write_text(f"runbook_url: {url}\n", encoding="utf-8")
    assert broken_links(repository) == [f"prometheus/alerts.yml:1: {url}"]


def test_the_anchors_are_those_of_github() -> None:
    headings = "# A  b\n## `c_d` *e*\n## C'est [ça](x.md)\n### Ä-ö, 1.2!\n"
    assert anchors(headings) == ["a--b", "c_d-e", "cest-ça", "ä-ö-12"]


def test_every_picture_is_shown() -> None:
    shown = set(re.findall(r"!\[[^\]]*\]\((?:docs/)?([\w-]+\.png)\)", text_of(*documents(ROOT))))
    assert shown == {picture.name for picture in DOCS.glob("*.png")}


def test_a_misspelt_word_is_found_and_those_of_the_tests_are_not() -> None:
    command = [sys.executable, "-m", "codespell_lib", "--toml", str(ROOT / "pyproject.toml"), "-"]
    # Not written out, because this file is checked, too.
    misspelt = "receive".replace("ei", "ie")
    text = f"{misspelt}\nreceive\nconcurency\n"
    checked = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert re.findall(r"(\w+) ==> ", checked.stdout) == [misspelt], checked.stderr


def test_every_flag_is_documented_and_every_documented_flag_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    usage = capsys.readouterr().out.partition("options:")[2]
    flags = set(re.findall(r"(?m)^ +(?:-h, )?(--[\w.-]+)", usage))
    table = [row for row in rows(DOCS / "configuration.md") if row[0].startswith("`--")]
    assert {flag for row in table for cell in row for flag in re.findall(r"`(--[\w.-]+)", cell)} == flags
    named = set(re.findall(r"(?<![\w-])--(?:config|web|log)\.[\w.-]*\w", text_of(*documents(ROOT))))
    # Prometheus has flags that begin so, too.
    assert named - flags <= {"--web.enable-admin-api", "--web.external-url"}


def test_every_target_of_make_that_is_named_is_there() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    commands = "\n".join(block.text for document in documents(ROOT) for block in blocks(document))
    named = re.findall(r"(?m)^make ([a-z-]+)", commands) + re.findall(r"`make ([a-z-]+)", text_of(*documents(ROOT)))
    assert named
    assert set(named) <= targets


def test_what_is_called_in_the_environment_of_a_clone_is_python_alone() -> None:
    # `make run` installs no command there, and the first line of a script breaks in some paths.
    assert set(re.findall(r"\.venv/bin/([\w.-]+)", text_of(*documents(ROOT)))) == {"python"}
