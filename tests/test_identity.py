"""Names in RESULTS identify nobody, and agree where the secret is the same."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from imaging_pipeline.errors import PipelineError
from imaging_pipeline.identity import KEY_FILE, Keys, cut_description, open_keys
from imaging_pipeline.settings import IdentitySettings
from imaging_pipeline.stores import LocalStore


def test_the_secret_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    first = open_keys(LocalStore(root=tmp_path), IdentitySettings())
    second = open_keys(LocalStore(root=tmp_path), IdentitySettings())
    assert first.subject("P1", "1.2") == second.subject("P1", "1.2")
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


def test_two_results_with_one_named_secret_give_the_same_names(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret of more than sixteen bytes")
    named = IdentitySettings(secret_file=tmp_path / "secret")
    one, other = (open_keys(LocalStore(root=tmp_path / name), named) for name in "ab")
    (tmp_path / "c").mkdir()
    own = open_keys(LocalStore(root=tmp_path / "c"), IdentitySettings())
    assert one.subject("P1", "") == other.subject("P1", "") != own.subject("P1", "")
    (tmp_path / "secret").write_text("short")
    with pytest.raises(PipelineError, match="has 5 bytes, 16 are needed"):
        open_keys(LocalStore(root=tmp_path), named)


def test_a_dry_run_leaves_no_secret_behind(tmp_path: Path) -> None:
    open_keys(LocalStore(root=tmp_path), IdentitySettings(), create=False)
    assert list(tmp_path.iterdir()) == []


def test_keys_hold_no_identifier_unless_asked_to() -> None:
    keys, raw = Keys(b"0" * 16), Keys(b"0" * 16, "raw")
    assert "4711" not in keys.subject("4711", "")
    assert keys.subject("", "1.2") != keys.subject("", "1.3")
    assert raw.subject("A-17", "") == raw.subject("A-17", "")
    assert raw.subject("A-17", "").startswith("A17x")
    assert raw.subject("A-17", "") != raw.subject("A17", "") == "A17"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("T1 MPRAGE sag 1.0mm", "T1 MPRAGE sag"),
        ("Thorax 5.0 B30f", "Thorax 5.0 B30f"),
        ("MUELLER HANS 19520304 Abdomen", "Abdomen"),
        ("<script>alert(1)</script>", "1"),
        ("CT Müller^Jürgen", "CT"),
    ],
)
def test_a_description_keeps_protocol_words_only(text: str, kept: str) -> None:
    assert cut_description(text, "vocabulary") == kept
    assert cut_description(text, "full") == text
    assert cut_description(text, "none") == ""
