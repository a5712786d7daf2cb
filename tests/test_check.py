import io
import re
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from sitecore_cdp_exporter import check
from sitecore_cdp_exporter.cli import main
from sitecore_cdp_exporter.config.model import Config, load_config
from tests.config_file import BROKEN_WEB_CONFIG, OTHER_REF, REF, SECRET, write_config


def test_a_valid_config_is_shown(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config.check", f"--config.file={config}"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.splitlines() == [
        f"{config} is valid. Batches of https://sitecore.invalid that would be watched: 2",
        "Credentials: api.basic_auth.username, api.basic_auth.password",
        rf'{REF} feed="nightly" note="two\n\"lines\"" team="c r m"',
        OTHER_REF,
    ]


@pytest.mark.parametrize(
    ("basic_auth", "environment", "sources", "problems"),
    [
        (
            {"username_file": "user", "password_file": "none"},
            {"SITECORE_CDP_CLIENT_KEY": SECRET},
            "api.basic_auth.username_file ({0}/user), api.basic_auth.password_file ({0}/none)",
            ["api.basic_auth.password_file ({0}/none): No such file or directory"],
        ),
        (
            None,
            {"SITECORE_CDP_CLIENT_KEY": SECRET, "SITECORE_CDP_API_TOKEN": SECRET},
            "the environment variable SITECORE_CDP_CLIENT_KEY, the environment variable SITECORE_CDP_API_TOKEN",
            [],
        ),
        (
            {"username": "a"},
            {"SITECORE_CDP_API_TOKEN": ""},
            "api.basic_auth.username, the environment variable SITECORE_CDP_API_TOKEN",
            ["the environment variable SITECORE_CDP_API_TOKEN is empty"],
        ),
        (
            None,
            {},
            "none",
            [
                f"there is no {key}: set api.basic_auth.{key}_file or the environment variable {variable}"
                for key, variable in (("username", "SITECORE_CDP_CLIENT_KEY"), ("password", "SITECORE_CDP_API_TOKEN"))
            ],
        ),
    ],
)
def test_the_check_shows_which_credentials_count_and_whether_they_can_be_read(
    basic_auth: object,
    environment: dict[str, str],
    sources: str,
    problems: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("SITECORE_CDP_CLIENT_KEY", "SITECORE_CDP_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "user").write_text(SECRET, encoding="utf-8")
    config = write_config(tmp_path, basic_auth=basic_auth)
    assert main(["--config.check", f"--config.file={config}"]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines()[1] == f"Credentials: {sources.format(tmp_path)}"
    about = f"warning: {config}: credentials cannot be read now: "
    assert output.err.splitlines() == [f"{about}{problem.format(tmp_path)}" for problem in problems]
    assert SECRET not in output.out + output.err


def test_every_mistake_of_a_config_is_one_plain_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"api:\n  base_url: ftp://x\n  basic_auth: {{password: [{SECRET}]}}\n  timeout: 5\nbatches: [abc]\n",
        encoding="utf-8",
    )
    assert main(["--config.check", f"--config.file={config}"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.splitlines()
    places = [re.match(rf"{re.escape(str(config))}:(\d): ([a-z_.]+(?:\[0\])?(?:\.ref)?): ", line) for line in lines]
    assert [place and place[1] for place in places] == ["2", "3", "4", "5"]
    assert SECRET not in output.err


def test_the_config_file_has_a_default(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(config.parent)
    assert main(["--config.check"]) == 0
    assert capsys.readouterr().out.startswith("config.yaml is valid.")


def write_batch_files(config: Path, *patterns: str, **files: str) -> None:
    """Let the config name batch files, and write them."""
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    config.write_text(yaml.safe_dump({**document, "batch_files": patterns}), encoding="utf-8")
    for name, text in files.items():
        (config.parent / f"{name}.yaml").write_text(text, encoding="utf-8")


def test_a_mistake_in_a_batch_file_is_the_only_verdict(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_batch_files(config, "one.yaml", "t*.yaml", one=f"- {REF}\n- abc\n- def\n", two="a: b\n")
    assert main(["--config.check", f"--config.file={config}"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    places = [line.removeprefix(f"{config.parent}/").split(": ")[0] for line in output.err.splitlines()]
    assert places == ["one.yaml:2", "one.yaml:3", "two.yaml:1"]


def test_mistakes_of_a_web_config_and_of_a_batch_file_are_shown_together(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_batch_files(config, "one.yaml", one="- abc\n")
    web_config = config.parent / "web.yml"
    web_config.write_text("more: 1\n", encoding="utf-8")
    assert main(["--config.check", f"--config.file={config}", f"--web.config.file={web_config}"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [Path(line.split(":")[0]).name for line in lines] == ["web.yml", "one.yaml"]


@pytest.mark.parametrize(
    ("pattern", "missing"),
    [("none.yaml", "none.yaml"), ("none/*.yaml", "none"), ("no[n]e/x/*.yaml", None), ("*.none", None)],
)
def test_a_batch_file_that_is_not_there_is_a_warning(
    config: Path, pattern: str, missing: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    write_batch_files(config, pattern)
    assert main(["--config.check", f"--config.file={config}"]) == 0
    output = capsys.readouterr()
    assert "is valid" in output.out
    path = config.parent / (missing or "")
    warning = f"warning: {config}: batch_files: {path}: No such file or directory\n"
    assert output.err == (warning if missing else "")


def test_batch_files_that_disagree_are_a_warning(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: f"- {{ref: {OTHER_REF}, feed: {name}}}\n" for name in ("one", "two")}
    write_batch_files(config, "*e.yaml", "two.yaml", **files)
    assert main(["--config.check", f"--config.file={config}"]) == 0
    output = capsys.readouterr()
    assert output.err.startswith(f"warning: two.yaml: {OTHER_REF} differs in feed")
    assert "is valid" in output.out


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8"])
def test_a_valid_config_is_shown_in_any_encoding(config: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_batch_files(config, "one.yaml", one=f"- {{ref: {REF[:-1]}a, labels: {{town: Gda\u0144sk}}}}\n")
    output = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(output, encoding=encoding))
    assert main(["--config.check", f"--config.file={config}"]) == 0
    town = "Gda\u0144sk" if encoding == "utf-8" else r"Gda\u0144sk"
    assert f'town="{town}"' in output.getvalue().decode(encoding)


def test_a_check_whose_output_cannot_be_written_says_so_in_one_line(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(["--config.check", f"--config.file={config}"]) == 1
        # Otherwise Python would write again at the end of the process, and end it with 120.
        assert full.closed
    expected = f"{config} is valid, but the output cannot be written: No space left on device\n"
    assert capsys.readouterr().err == expected


def test_a_valid_config_is_valid_without_anybody_to_show_it_to(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert main(["--config.check", f"--config.file={config}"]) == 0


def test_the_check_shows_the_mistakes_of_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("config.yaml", "batches: [abc]\n"), ("web.yml", BROKEN_WEB_CONFIG)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    flags = [f"--config.file={tmp_path / 'config.yaml'}", f"--web.config.file={tmp_path / 'web.yml'}"]
    assert main([*flags, "--config.check"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    names = [line.removeprefix(f"{tmp_path}/").partition(":")[0] for line in output.err.splitlines()]
    assert names == ["config.yaml", "config.yaml", "web.yml", "web.yml", "web.yml"]
    assert SECRET not in output.err


def test_a_reader_that_has_seen_enough_may_end_a_check_but_not_what_follows(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def load(path: Path) -> Config:
        seen.append(signal.getsignal(signal.SIGPIPE))
        return load_config(path)

    monkeypatch.setattr(check, "load_config", load)
    before = signal.getsignal(signal.SIGPIPE)
    assert main([f"--config.file={config}", "--config.check"]) == 0
    # By default it ends the process, quietly.
    assert seen == [signal.SIG_DFL]
    assert signal.getsignal(signal.SIGPIPE) == before


def test_the_check_shows_when_a_batch_of_each_feed_is_due(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    feeds = [
        {"name": "orders", "expect_success_every": "24h", "grace": "3h"},
        {"name": "guests", "expect_success_by": {"time": "23:30", "timezone": "Asia/Tokyo", "days": ["wed"]}},
        {"name": "events"},
    ]
    config = write_config(tmp_path)
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    config.write_text(yaml.safe_dump(document | {"feeds": feeds}), encoding="utf-8")
    started = datetime.now(UTC)
    assert main(["--config.check", f"--config.file={config}"]) == 0
    found = re.findall(r"(?m)^Feed (\w+) is due by (.*), unless", capsys.readouterr().out)
    (orders, by_the_interval), (guests, by_the_clock) = found
    assert (orders, guests) == ("orders", "guests")
    due = datetime.strptime(by_the_interval, "%a %Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
    assert timedelta(0) <= due + timedelta(seconds=1) - started - timedelta(hours=27) < timedelta(minutes=5)
    assert re.fullmatch(r"Wed \d{4}-\d\d-\d\d 23:30:00 JST", by_the_clock)
