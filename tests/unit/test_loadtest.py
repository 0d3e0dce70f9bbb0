"""What a load of callers asks for, and how it is told; and locust itself on the whole gateway, for some seconds."""

import csv
import random
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import mixes, rehearsal

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", sorted(mixes.MIXES))
def test_a_mix_is_of_kinds_that_there_are(name: str) -> None:
    assert set(mixes.mix(name)) <= set(mixes.KINDS)


def test_a_mix_can_be_written() -> None:
    assert mixes.mix("chat=3, stream=1") == {"chat": 3, "stream": 1}


@pytest.mark.parametrize("text", ["", "chats", "chats=3", "chat=", "chat=-1", "chat=0", "chat=1,,stream=1", "chat=1;x"])
def test_a_mix_that_is_none_is_refused_and_told_what_there_is(text: str) -> None:
    with pytest.raises(mixes.MixError, match=r"everyday.*long-stream"):
        mixes.mix(text)


def test_kinds_come_as_often_as_the_mix_says() -> None:
    dice = random.Random(1)
    drawn = Counter(mixes.draw({"chat": 3, "stream": 1}, dice).name for _ in range(4000))
    assert set(drawn) == {"chat", "stream"}
    assert 2.6 < drawn["chat"] / drawn["stream"] < 3.4


@pytest.mark.parametrize("name", sorted(mixes.KINDS))
def test_a_call_is_what_its_kind_says(name: str) -> None:
    kind, wish = mixes.KINDS[name], mixes.Wish(chat="c", embeddings="e", failover="o", failing="f")
    body = mixes.body(kind, wish, random.Random(1))
    assert body.get("stream", False) == kind.stream
    assert body["model"] == {"embeddings": "e", "failover": "o", "failing": "f"}.get(name, "c")
    assert "x_fake" not in body
    assert ("tools" in body) == (name == "tools")


def test_only_the_fake_is_asked_to_keep_a_pace() -> None:
    body = mixes.body(mixes.KINDS["stream"], mixes.Wish(fake_pace=20, tokens=7), random.Random(1))
    assert body["x_fake"] == {"tokens_per_second": 20, "length": 7}


@given(st.integers(1, 500_000), st.integers())
def test_a_prompt_has_the_length_that_was_asked_for(size: int, seed: int) -> None:
    assert len(mixes.prompt(size, random.Random(seed)).encode()) == size


def test_long_prompts_are_of_all_lengths_up_to_400_kb() -> None:
    dice, kind = random.Random(1), mixes.KINDS["long"]
    sizes = [len(mixes.body(kind, mixes.Wish(), dice)["messages"][-1]["content"]) for _ in range(300)]
    assert 1_000 <= min(sizes) < 3_000
    assert 150_000 < max(sizes) <= 400_000


def test_the_crowd_that_asks_again_has_few_questions_and_others_never_ask_twice() -> None:
    dice = random.Random(1)
    again = {str(mixes.body(mixes.KINDS["again"], mixes.Wish(), dice)["messages"]) for _ in range(200)}
    chat = {str(mixes.body(mixes.KINDS["chat"], mixes.Wish(), dice)["messages"]) for _ in range(200)}
    assert len(again) <= 20
    assert len(chat) == 200


def test_keys_are_read_from_a_file_and_the_poor_pay_for_their_kind(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# whose\nk1\n\n  k2  \nk3 poor\n")
    found = mixes.keys(file)
    assert found == mixes.Keys(("k1", "k2"), ("k3",))
    dice = random.Random(1)
    assert {found.of(mixes.KINDS["budget"], dice) for _ in range(20)} == {"k3"}
    assert {found.of(mixes.KINDS["chat"], dice) for _ in range(50)} == {"k1", "k2"}


@pytest.mark.parametrize("text", ["", "k1 rich\n", "k1 poor\n", "k1 poor poor\n"])
def test_a_file_without_usable_keys_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(mixes.MixError):
        mixes.keys(file)


def test_a_summary_has_calls_first_and_then_what_streams_felt_like(tmp_path: Path) -> None:
    file = tmp_path / "stats.csv"
    columns = ("Type", "Name", "Request Count", "Failure Count", "50%", "95%", "99%", "Requests/s")
    rows = [
        ("GAP", "stream", 9, 0, 1, 2, 3, 0.5),
        ("SDK", "chat", 7, 1, 4, 5, 6, 0.25),
        ("", "Aggregated", 7, 1, 4, 5, 6, 1),
    ]
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([columns, *rows])
    told = [line.split() for line in rehearsal.summary(file).splitlines() if line]
    assert told[1] == ["SDK", "chat", "7", "1", "4", "5", "6", "0.2"]
    assert told[2][0] == "all"
    assert told[-1][:3] == ["GAP", "stream", "9"]


def test_words_after_the_dashes_are_locusts() -> None:
    options = rehearsal.parsed(["--users", "3", "--", "--think", "0"])
    assert (options.users, options.more) == (3, ["--think", "0"])


def test_a_url_needs_keys() -> None:
    with pytest.raises(SystemExit):
        rehearsal.parsed(["--url", "http://gateway"])


@pytest.mark.timeout(400)
@pytest.mark.skipif(find_spec("locust") is None, reason="locust is not installed: make loadtest installs it")
def test_locust_calls_the_gateway_in_every_way_and_none_fails(tmp_path: Path) -> None:
    options = ["--time", "15s", "--users", "20", "--spawn-rate", "20", "--mix", "all", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "loadtest.rehearsal", *options, "--", "--think", "0.2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.glob("*_stats.csv")
    with file.open(newline="") as text:
        rows = {(row["Type"], row["Name"]): row for row in csv.DictReader(text)}
    kinds = {name.partition(",")[0] for _, name in rows}
    assert kinds >= set(mixes.KINDS)
    assert {("TTFT", "stream"), ("GAP", "stream")} <= set(rows)
    assert any(name.startswith("budget, rightly 429") for _, name in rows)
    assert int(rows["", "Aggregated"]["Failure Count"]) == 0
    assert len(list(tmp_path.glob("*.html"))) == 1
    assert "No call failed." in done.stdout
