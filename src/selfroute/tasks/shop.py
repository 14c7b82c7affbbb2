"""Shop: look at items, choose a size, buy what fits a wish (a small WebShop, after arXiv 2502.12130).

A problem is `In shop 482, buy an item: color red, origin china, size M`. A shop has eight items, each with four
attributes of five values; which ones, is drawn by the shop's number. An agent sees an item only by looking at it::

    <tool>view 3</tool><result>item 3: color red, fabric wool, origin china, style plain</result>
    <tool>choose M</tool><result>size M</result>
    <tool>buy</tool>

A wish names two or three attributes and a size, and at least one item fits it. With `wishes=3` three items are to be
bought, one for each wish in their order, which makes an episode three times as long.

Splits cannot overlap: a problem's split is a hash of its wishes alone, so that a wish of one split is made in no other,
in whatever shop.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from selfroute.actions import Action
from selfroute.errors import ConfigError
from selfroute.tasks.base import Observation, Row, Tool
from selfroute.tasks.episode import Episode, Move, Moved, text_parameters
from selfroute.verify.base import Verdict
from selfroute.verify.extract import tagged_answer

__all__ = [
    "ATTRIBUTES",
    "DEFAULT_LIMITS",
    "ITEMS",
    "SIZES",
    "Cart",
    "Shop",
    "Wish",
    "bought",
    "items_of",
    "met",
    "question",
    "split_of",
]

Item = Mapping[str, str]  # value of each attribute
Wish = Mapping[str, str]  # value of each attribute that is asked for, and of "size"

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "color": ("red", "blue", "green", "black", "white"),
    "fabric": ("cotton", "wool", "silk", "linen", "denim"),
    "origin": ("china", "italy", "india", "peru", "japan"),
    "style": ("plain", "striped", "dotted", "checked", "floral"),
}
SIZES = ("S", "M", "L")
ITEMS = 8
SHOPS = 1_000
DEFAULT_LIMITS: Mapping[str, int] = {"train": 5_000, "validation": 500, "test": 1_000}
# Share of the wishes per split, in percent: train below 80, validation below 90, test the rest.
_TRAIN_BELOW, _VALIDATION_BELOW = 80, 90
_TRIES = 64  # draws for a wish of one split; the smallest holds a tenth of them
_QUESTION = re.compile(r"In shop (\d{1,9}), buy (.+)", re.ASCII | re.DOTALL)
_BOUGHT = re.compile(r"item (\d{1,3}) size ([A-Z]{1,4})", re.ASCII)

VIEW = Tool(
    name="view",
    description="Look at an item.",
    parameters={
        "type": "object",
        "properties": {"item": {"type": "integer", "description": f"from 1 to {ITEMS}"}},
        "required": ["item"],
    },
)
CHOOSE = Tool(name="choose", description="Choose a size.", parameters=text_parameters(size=", ".join(SIZES)))
BUY = Tool(
    name="buy",
    description="Buy the item that was looked at last, in the size that was chosen.",
    parameters=text_parameters(),
)


@lru_cache(maxsize=SHOPS)
def items_of(shop: int) -> tuple[Item, ...]:
    """What a shop has, item 1 first."""
    rng = random.Random(f"shop/{shop}")
    return tuple({name: rng.choice(values) for name, values in ATTRIBUTES.items()} for _ in range(ITEMS))


def wish_text(wish: Wish) -> str:
    return ", ".join(f"{name} {value}" for name, value in wish.items())


def question(shop: int, wishes: Sequence[Wish]) -> str:
    """As it is asked, without the final full stop, which the prompt template adds."""
    things = "an item" if len(wishes) == 1 else f"{len(wishes)} items"
    return f"In shop {shop}, buy {things}: {'; '.join(map(wish_text, wishes))}"


def split_of(wishes: Sequence[Wish]) -> str:
    """The one split that may hold these wishes: that of the first, whose split all of them share."""
    key = wish_text(dict(sorted(wishes[0].items())))
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100
    return "train" if bucket < _TRAIN_BELOW else "validation" if bucket < _VALIDATION_BELOW else "test"


@dataclass(frozen=True, slots=True)
class Cart:
    """What an agent has done in a shop.

    Attributes:
        item: number of the item that was looked at last, 0 before the first.
        size: the size that was chosen, empty before.
        bag: what was bought, item and size.
    """

    item: int = 0
    size: str = ""
    bag: tuple[tuple[int, str], ...] = ()


def bought(answer: str) -> list[tuple[int, str]]:
    """The items and sizes of an episode's answer."""
    return [(int(item), size) for item, size in _BOUGHT.findall(answer)]


def met(shop: int, wishes: Sequence[Wish], bag: Sequence[tuple[int, str]]) -> float:
    """Share of what the wishes name that was bought, in [0, 1]; the first item is for the first wish."""
    items = items_of(shop)
    fits = 0
    for wish, (number, size) in zip(wishes, bag, strict=False):
        has = {**items[number - 1], "size": size} if 1 <= number <= len(items) else {}
        fits += sum(has.get(name) == value for name, value in wish.items())
    return fits / sum(map(len, wishes))


def quality(share: float) -> float:
    """1 if everything fits; else half the share that does, as a purchase that misses a wish is not right."""
    return 1.0 if share == 1.0 else share / 2


class Shop:
    """Buy what fits a wish by looking at items one by one.

    Args:
        seed: draws the problems; the same seed gives the same rows.
        limit: rows per split; None gives 5,000 train, 500 validation and 1,000 test rows.
        wishes: items to buy in one episode.

    Raises:
        ConfigError: an option outside its range, or a problem space too small for `limit`.
    """

    name = "shop"
    template = "tools"

    def __init__(self, *, seed: int = 0, limit: int | None = None, wishes: int = 1) -> None:
        if not 1 <= wishes <= ITEMS:
            raise ConfigError(f"wishes must be from 1 to {ITEMS}, not {wishes}")
        if limit is not None and limit < 1:
            raise ConfigError(f"limit must be at least 1, not {limit}")
        self.seed = seed
        self.limit = limit
        self.wishes = wishes

    def draw(self, rng: random.Random, split: str) -> tuple[int, list[Wish]]:
        """A shop and wishes of one split that it can meet."""
        shop = rng.randrange(SHOPS)
        items, wishes = items_of(shop), list[Wish]()
        while len(wishes) < self.wishes:
            item = rng.choice(items)
            names = sorted(rng.sample(list(ATTRIBUTES), rng.randint(2, 3)))
            wish = {**{name: item[name] for name in names}, "size": rng.choice(SIZES)}
            if split_of([wish]) == split:
                wishes.append(wish)
        return shop, wishes

    def rows(self, split: str) -> Iterator[Row]:
        """Rows of "train", "validation" or "test"."""
        if split not in DEFAULT_LIMITS:
            raise ConfigError(f"unknown split '{split}' of task 'shop'; use one of {', '.join(DEFAULT_LIMITS)}")
        count = self.limit if self.limit is not None else DEFAULT_LIMITS[split]
        rng = random.Random(f"shop/{split}/{self.wishes}/{self.seed}")
        seen: set[str] = set()
        for _ in range(10_000 + 10 * count):
            shop, wishes = self.draw(rng, split)
            asked = question(shop, wishes)
            if asked in seen:
                continue
            seen.add(asked)
            gold = "; ".join(f"item {item} size {size}" for item, size in _fitting(shop, wishes))
            yield Row(id=asked, question=asked, gold=gold, fields={"shop": shop, "wishes": wishes})
            if len(seen) == count:
                return
        raise ConfigError(f"shop has fewer than {count} different '{split}' problems; lower limit")

    def verify(self, row: Row, completion: str) -> Verdict:
        """The first `<answer>` outside the reasoning says what was bought; it is right if everything fits."""
        answer = tagged_answer(completion)
        if answer is None:
            return Verdict(False, reason="no answer")
        worth = quality(met(row.fields["shop"], row.fields["wishes"], bought(answer)))
        return Verdict(worth == 1.0, answer[:200], "" if worth == 1.0 else "does not fit", worth)

    def gold_completion(self, row: Row) -> str:
        return f"<answer>{row.gold}</answer>"

    def retell(self, row: Row, answer: str, rng: random.Random) -> Row | None:
        """See `Retelling`: wishes for two or three attributes of what was bought, in the split of the row's own."""
        shop, split, bag = row.fields["shop"], split_of(row.fields["wishes"]), bought(answer)
        if len(bag) != len(row.fields["wishes"]):
            return None
        wishes = [_fitting_wish(items_of(shop)[number - 1], size, split, rng) for number, size in bag]
        told = [wish for wish in wishes if wish is not None]
        if len(told) < len(bag):
            return None
        asked = question(shop, told)
        return Row(id=asked, question=asked, gold=answer, fields={"shop": shop, "wishes": told})

    def environment(self, row: Row) -> Episode[Cart]:
        """The shop that the question names."""
        asked = _QUESTION.fullmatch(row.question.strip())
        if asked is None:
            raise ConfigError(f"question {row.question!r:.80} names no shop; ask as in 'In shop 7, buy an item: …'")
        shop, wanted = int(asked[1]), asked[2].count(";") + 1

        def judge(answer: str) -> float | None:
            wishes = row.fields.get("wishes")
            return None if wishes is None else quality(met(shop, wishes, bought(answer)))

        moves = ((VIEW, _viewer(items_of(shop))), (CHOOSE, _choose), (BUY, _buyer(wanted)))
        return Episode(Cart(), moves, judge, options=_options)


def _fitting_wish(item: Item, size: str, split: str, rng: random.Random) -> Wish | None:
    """A wish of a split that an item in a size fits; None if there is none among a few."""
    for _ in range(_TRIES):
        names = sorted(rng.sample(list(ATTRIBUTES), rng.randint(2, 3)))
        wish = {**{name: item[name] for name in names}, "size": size}
        if split_of([wish]) == split:
            return wish
    return None


def _fitting(shop: int, wishes: Sequence[Wish]) -> Iterator[tuple[int, str]]:
    """The first item and the size that fit each wish."""
    for wish in wishes:
        for number, item in enumerate(items_of(shop), start=1):
            if all({**item, "size": wish["size"]}[name] == value for name, value in wish.items()):
                yield number, wish["size"]
                break


def _viewer(items: Sequence[Item]) -> Move[Cart]:
    def view(cart: Cart, arguments: Mapping[str, Any]) -> Moved[Cart]:
        number = arguments["item"]
        if not 1 <= number <= len(items):
            return cart, Observation(f"no item {str(number)[:20]}; items: 1 to {len(items)}")
        return Cart(number, bag=cart.bag), Observation(f"item {number}: {wish_text(items[number - 1])}")

    return view


def _choose(cart: Cart, arguments: Mapping[str, Any]) -> Moved[Cart]:
    size = arguments["size"].strip()
    if size not in SIZES:
        return cart, Observation(f"no size {size[:20]!r}; sizes: {', '.join(SIZES)}")
    return Cart(cart.item, size, cart.bag), Observation(f"size {size}")


def _buyer(wanted: int) -> Move[Cart]:
    def buy(cart: Cart, arguments: Mapping[str, Any]) -> Moved[Cart]:
        if not cart.item or not cart.size:
            return cart, Observation("nothing to buy: first view an item, then choose a size")
        bag = (*cart.bag, (cart.item, cart.size))
        said = "; ".join(f"item {item} size {size}" for item, size in bag)
        return Cart(bag=bag), Observation(said if len(bag) == wanted else f"bought: {said}", done=len(bag) == wanted)

    return buy


def _options(cart: Cart) -> list[Action]:
    found = [Action(str(item), VIEW.name) for item in range(1, ITEMS + 1) if item != cart.item]
    if cart.item:
        found += [Action(size, CHOOSE.name) for size in SIZES if size != cart.size]
    if cart.size:
        found.append(Action("", BUY.name))
    return found
