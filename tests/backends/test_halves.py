"""Text that is cut anywhere, between the halves of a character too, is the same text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from selfroute.backends.halves import Halves, mended

ANY = st.text(st.characters() | st.sampled_from(["\ud83d", "\ude00", "😀", "a"]), max_size=12)


def in_halves(text: str) -> str:
    """Every character above U+FFFF as its two surrogates."""
    units = text.encode("utf-16-le", "surrogatepass")
    return "".join(chr(int.from_bytes(units[i : i + 2], "little")) for i in range(0, len(units), 2))


@given(ANY)
def test_what_is_mended_is_unicode_and_whole_characters_stay(text: str) -> None:
    whole = mended(text)
    whole.encode()
    assert mended(in_halves(whole)) == whole == mended(whole)
    assert "".join(c for c in whole if c != "\ufffd") == "".join(
        c for c in mended(in_halves(text)) if c != "\ufffd" and not "\ud800" <= c <= "\udfff"
    )


@given(ANY, st.lists(st.integers(0, 24), max_size=5))
def test_any_cut_gives_the_same_text(text: str, cuts: list[int]) -> None:
    text = in_halves(text)
    places = [0, *sorted(cuts), len(text)]
    halves = Halves()
    fed = [halves.feed(text[a:b]) for a, b in zip(places, [*places[1:], len(text)], strict=True)]
    assert "".join([*fed, halves.close()]) == mended(text)
    assert halves.close() == ""


def test_a_half_alone_is_one_lost_character() -> None:
    assert mended("a\ud83db") == "a\ufffdb" and mended("\ude00\ud83d") == "\ufffd\ufffd"
