"""Job files: what is read, and how a mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tolsey.client import spec
from tolsey.errors import ConfigError, SpecInvalid

SOURCE = Path("jobs/gpt.toml")
GOOD = """\
[job]
file = "gpt.py"
steps = 240
lr = "1e-3"
profile = "pinned"

[market]
max_cost = "5.00"
on = ["0xabcd"]
verifiers = 3

[clocks]
verdict_window_s = 12
"""


def test_request_complete_file_is_read() -> None:
    found = spec.parse_request(GOOD, source=SOURCE)
    assert found.file == Path("jobs/gpt.py")
    assert found.changes == {"steps": 240, "lr": "1e-3", "profile": "pinned"}
    assert (found.max_cost, found.on, found.verifiers, found.samples) == ("5.00", ("0xabcd",), 3, None)
    assert found.clocks == {"verdict_window_s": 12}


@pytest.mark.parametrize(
    ("text", "number", "words", "fix"),
    [
        (GOOD.replace("steps =", "stepz ="), 3, "[job] knows no 'stepz'", "steps"),
        (
            GOOD.replace('"pinned"', '"exact-fp32/2"'),
            5,
            "profile is one of exact-fp32/1, exact-int8/1, exact-int8x3/1, pinned",
            None,
        ),
        (GOOD.replace("[market]", "[markets]"), 7, "a job file knows no 'markets'", "market"),
        (GOOD.replace('"1e-3"', "0.001"), 4, "lr is a string", None),
        (GOOD.replace("240", '"many"'), 3, "steps is a whole number", None),
        (GOOD.replace("verifiers = 3", "verifiers = 9"), 10, "verifiers is 9, allowed are 0 to 7", None),
        (GOOD.replace('["0xabcd"]', '"0xabcd"'), 9, "on is a list of accounts", None),
        (
            GOOD.replace("verdict_window_s = 12", "verdict_window = 12"),
            13,
            "knows no 'verdict_window'",
            "verdict_window_s",
        ),
    ],
)
def test_request_mistake_quotes_its_line(text: str, number: int, words: str, fix: str | None) -> None:
    with pytest.raises(SpecInvalid) as caught:
        spec.parse_request(text, source=SOURCE)
    assert f"jobs/gpt.toml line {number}: " in caught.value.message
    assert words in caught.value.message
    assert text.splitlines()[number - 1].strip() in caught.value.message
    if fix is not None:
        assert fix in (caught.value.fix or "")


def test_request_same_key_in_two_sections_quotes_the_right_one() -> None:
    with pytest.raises(SpecInvalid, match="line 5"):
        spec.parse_request('[job]\nfile = "a.py"\nname = "x"\n[market]\nname = "y"\n', source=SOURCE)


def test_request_broken_toml_quotes_the_line() -> None:
    with pytest.raises(SpecInvalid) as caught:
        spec.parse_request('[job]\nfile = "a.py\n', source=SOURCE)
    assert 'file = "a.py' in caught.value.message


def test_request_without_file_says_what_to_write() -> None:
    with pytest.raises(SpecInvalid) as caught:
        spec.parse_request("[job]\nsteps = 1\n", source=SOURCE)
    assert "lacks `file`" in caught.value.message and 'file = "job.py"' in (caught.value.fix or "")


def test_request_missing_python_file_is_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no job file"):
        spec.read_request(tmp_path / "absent.py")


def test_request_other_ending_is_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither a \.toml nor a \.py"):
        spec.read_request(tmp_path / "job.yaml")


def test_request_huge_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text("#" * (spec.MAX_FILE_BYTES + 1))
    with pytest.raises(SpecInvalid, match="more than"):
        spec.read_request(path)


def test_build_without_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise ImportError("No module named 'torch'", name="torch")

    monkeypatch.setattr(spec.importlib, "import_module", refuse)
    with pytest.raises(ConfigError) as caught:
        spec.build(spec.Request(file=tmp_path / "job.py"), tmp_path)
    assert caught.value.fix == "pip install 'tolsey[torch]'"


JOB = """
import torch
from tolsey.runtime.author import Job, text_file
job = Job(name="tiny", model=lambda: torch.nn.Sequential(torch.nn.Embedding(256, 4), torch.nn.Linear(4, 256)),
          data=text_file({text!r}, context=8), batch_size=2, steps=4, steps_per_segment=2, lr="1e-3")
"""


def test_build_model_that_raises_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "job.py"
    text = JOB.format(text=str(Path(__file__))).replace("torch.nn.Embedding(256, 4)", "torch.nn.Embedding(256, nosuch)")
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"job\.py line 4: NameError: name 'nosuch' is not defined"):
        spec.build(spec.Request(file=file), tmp_path / "built")


def test_request_missing_toml_file_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nosuch\.toml cannot be read: No such file") as caught:
        spec.read_request(tmp_path / "nosuch.toml")
    assert caught.value.fix == f"check the path: ls {tmp_path}"


def test_build_data_replaced_and_checked_against_its_hash(tmp_path: Path) -> None:
    text, other = tmp_path / "a.txt", tmp_path / "b.txt"
    text.write_text("the quick brown fox " * 20)
    other.write_text("jumps over the lazy dog " * 20)
    file = tmp_path / "job.py"
    file.write_text(JOB.format(text=str(text)))
    first = spec.build(spec.Request(file=file, changes={"steps": 6}), tmp_path / "one")
    assert first.job.steps == 6
    second = spec.build(spec.Request(file=file), tmp_path / "two", data=other)
    assert second.dataset_id != first.dataset_id
    wanted = first.dataset_id.hex()
    with pytest.raises(SpecInvalid) as caught:
        spec.build(spec.Request(file=file, data=other, data_content=wanted), tmp_path / "three")
    assert wanted in caught.value.message and second.dataset_id.hex() in caught.value.message
