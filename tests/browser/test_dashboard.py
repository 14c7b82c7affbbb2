"""The dashboard in a real browser: what was asked is shown, on a desk and on a phone, by day and by night."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect
from tests.gateway.live import CLOUD_TEXT, EASY, HARD, Slow, ask, device_fn, gateway, service
from tests.gateway.several import NAMES, World, chat

from selfroute.budget.base import Estimate, Lease, LimitState, Unlimited
from selfroute.gateway.access import Access, hash_key
from selfroute.gateway.history import Tally
from selfroute.prices import Prices

CHROMIUM = shutil.which("chromium")
expect.set_options(timeout=30_000)  # a page shows what is right; how soon depends on the machine
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium"),
    pytest.mark.asyncio(loop_scope="module"),
]


class Told(Unlimited):
    """A budget that says where it stands."""

    async def reserve(self, estimate: Estimate, *, score: float | None = None) -> Lease:
        return await super().reserve(estimate, score=score)

    async def status(self) -> list[LimitState]:
        return [LimitState("calls_per_day", 25, 1, 100, 7200.0), LimitState("usd_per_month", 1.5, 0, 5, 500_000.0)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        await launched.close()


def watched(page: Page) -> list[str]:
    """What the page complains about, and what it asks of anybody but the gateway."""
    seen: list[str] = []
    page.on("console", lambda message: seen.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda request: None if "127.0.0.1" in request.url else seen.append(request.url))
    return seen


async def test_a_request_that_was_made_is_a_request_shown(browser: Browser) -> None:
    with gateway(service(budget=Told()), share=0.3) as live:
        async with live.async_client() as client:
            made = [await client.chat.completions.create(**ask(question)) for question in (EASY, HARD)]
        page = await browser.new_page()
        seen = watched(page)
        await page.goto(live.url)
        rows = page.locator("#requests tr")
        await expect(rows).to_have_count(2)
        for answer, row in zip(reversed(made), await rows.all(), strict=True):
            await expect(row).to_contain_text(answer.selfroute["source"])
            await expect(row).to_contain_text(answer.selfroute["reason"])
            assert await row.get_attribute("data-id") == answer.selfroute["trace_id"]
        await expect(page.locator("#share")).to_have_text("50.0 %")
        await expect(page.locator("#share-note")).to_contain_text("target 30.0 %")
        await expect(page.locator("#budget")).to_contain_text("75 left")
        await expect(page.locator("#budget")).to_contain_text("calls per day: 25 of 100; resets in 2.0 h")
        await expect(page.locator("#budget")).to_contain_text("usd per month: $1.50 of $5.00; resets in 5.8 days")
        await expect(page.locator("#models")).to_contain_text("small")
        await expect(page.locator("#models .ready")).to_have_count(2)
        assert seen == []


async def test_the_stream_changes_hands_before_the_readers_eyes(browser: Browser) -> None:
    slow = Slow("large", " ".join(["word"] * 12), pause_s=0.1)
    with gateway(service(device_fn, slow)) as live:
        page = await browser.new_page()
        seen = watched(page)
        await page.goto(live.url)
        await page.fill("#prompt", HARD)
        await page.press("#prompt", "Control+Enter")
        answer = page.locator("#answer")
        await expect(answer.locator(".turn.cloud")).to_have_text("the device hands over; cloud:")
        await expect(answer.locator(".reasoning")).to_have_text("no idea")
        shown = len(await answer.inner_text())
        await asyncio.sleep(0.3)
        assert len(await answer.inner_text()) > shown  # it grows while the cloud writes
        await expect(page.locator("#verdict")).to_contain_text("answered by the cloud (hand-off)")
        await expect(page.locator("#requests tr")).to_have_count(1)
        assert seen == []


async def test_a_comment_that_keeps_a_stream_open_is_no_answer(browser: Browser) -> None:
    about = '"selfroute": {"source": "device", "reason": "answered", "seconds": 1, "cost_usd": 0}'
    piece = '{"choices": [{"delta": {"content": "four"}}], "selfroute": {"source": "device"}}'
    body = f': waiting\n\n: waiting\ndata: {piece}\n\ndata: {{"choices": [], {about}}}\n\ndata: [DONE]\n\n'
    with gateway() as live:
        page = await browser.new_page()
        await page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body))
        await page.goto(live.url)
        await page.fill("#prompt", EASY)
        await page.click("#send")
        await expect(page.locator("#verdict")).to_contain_text("answered by the device (answered)")
        await expect(page.locator("#answer .content")).to_have_text("four")


async def test_the_keyboard_reaches_everything(browser: Browser) -> None:
    with gateway(service(examples=(EASY, HARD))) as live:
        page = await browser.new_page()
        await page.goto(live.url)
        await expect(page.locator("#mode option")).to_have_count(4)
        await expect(page.locator("#prompt")).to_have_value(EASY)
        order, focus = [], "document.activeElement"
        for _ in range(6):
            await page.keyboard.press("Tab")
            order.append(await page.evaluate(f"{focus}.id || {focus}.className || {focus}.textContent"))
        assert order == ["prompt", "mode", "send", EASY, HARD, "scroll"]
        await page.focus("#mode")
        await page.keyboard.type("cloud")
        await page.focus("#send")
        await page.keyboard.press("Enter")
        await expect(page.locator("#verdict")).to_contain_text("answered by the cloud (mode)")
        await expect(page.locator("#answer .content")).to_have_text(CLOUD_TEXT)


def some_hours(live: Any) -> None:
    """A gateway of fifty minutes: twelve answers a minute, four of them from the cloud, and some trouble."""
    now = time.time()
    live.app.began = now - 50 * 60
    for minute in range(50):
        tally = Tally(8, 4, int(minute % 10 == 0), 0, int(minute % 5 == 0), cost_usd=0.004, cloud_alone_usd=0.012)
        live.app.activity.history.add(now - 60 * minute, tally)


async def test_charts_have_a_time_axis_units_and_words_for_those_who_do_not_see_them(browser: Browser) -> None:
    with gateway(service(budget=Told())) as live:
        some_hours(live)
        page = await browser.new_page(timezone_id="Asia/Kolkata")
        seen = watched(page)
        await page.goto(live.url)
        await expect(page.locator("#time rect")).to_have_count(105)
        for chart, label in (("#time", "requests"), ("#money", "USD in all")):
            words = await page.locator(f"{chart} text").all_text_contents()
            assert label in words and "time, the last 60 minutes" in words
            hours = [word for word in words if re.fullmatch(r"\d\d:(00|15|30|45)", word)]
            assert len(hours) >= 3, "whole quarters of the reader's own hours"
            assert len([word for word in words if re.fullmatch(r"\$?[\d.]+", word)]) >= 3
        told = "Requests per minute over the last 60 minutes, in all: device 400, cloud 200, failed 5"
        await expect(page.locator("#time")).to_have_attribute("aria-label", told)
        told = "Money over the last 60 minutes: $0.20 spent, $0.60 if the cloud had answered all"
        await expect(page.locator("#money")).to_have_attribute("aria-label", told)
        await expect(page.locator("#saved")).to_have_text("$0.40 saved")
        await expect(page.locator("#saved-note")).to_contain_text("would have cost about $0.60 (66.7 % less)")
        await expect(page.locator("#refused")).to_have_text("10 cloud calls refused")
        assert seen == []


async def test_an_example_can_be_taken_and_none_is_made_up(browser: Browser) -> None:
    with gateway(service(examples=(EASY, HARD))) as live:
        page = await browser.new_page()
        await page.goto(live.url)
        await page.click(f"#examples button:has-text('{HARD}')")
        await expect(page.locator("#prompt")).to_have_value(HARD)
    with gateway() as live:
        await page.goto(live.url)
        await expect(page.locator("#models")).to_contain_text("small")
        await expect(page.locator("#prompt")).to_have_value("")
        await expect(page.locator("#examples button")).to_have_count(0)


async def test_without_prices_nothing_is_said_of_money(browser: Browser) -> None:
    with gateway(replace(service(), prices=Prices())) as live:
        page = await browser.new_page()
        await page.goto(live.url)
        await expect(page.locator("#saved")).to_have_text("no prices")
        await expect(page.locator("#money")).to_be_hidden()
        await expect(page.locator("#refused")).to_have_text("no cloud call refused")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 760, 1280])
async def test_it_fits_a_phone_and_the_dark(browser: Browser, scheme: Any, width: int) -> None:
    with gateway(service(budget=Told(), examples=(EASY, "long " * 50))) as live:
        some_hours(live)
        async with live.async_client() as client:
            await client.chat.completions.create(**ask(HARD))
        page = await browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        await page.goto(live.url)
        await expect(page.locator("#requests tr")).to_have_count(1)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        # No column is cut off.
        table = await page.evaluate("(e => [e.scrollWidth, e.clientWidth])(document.querySelector('.scroll'))")
        assert table[0] <= table[1]
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        dark = sum(int(part) for part in ground[4:-1].split(",")) < 3 * 128
        assert dark == (scheme == "dark")
        contrast = await page.evaluate(CONTRAST)
        assert contrast == []


# Every text that is shown must stand out from its ground by 4.5 to 1 (WCAG AA).
CONTRAST = """() => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$|transparent/.test(c)) return c } return "rgb(255,255,255)" };
  return [...document.querySelectorAll("body *")].filter(e => e.checkVisibility() &&
      [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) && !["SCRIPT", "STYLE"].includes(e.tagName))
    .filter(e => { const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5 })
    .map(e => e.tagName + " " + e.textContent.slice(0, 20)) }"""


async def test_a_key_opens_it(browser: Browser) -> None:
    with gateway(access=Access({"ann": hash_key("sr-secret")})) as live:
        page = await browser.new_page()
        await page.goto(live.url)
        await page.fill("#key", "sr-secret")
        await page.press("#key", "Enter")
        await expect(page.locator("#models")).to_contain_text("small")
        await expect(page.locator("#door")).to_be_hidden()


async def test_a_refusal_is_shown_as_it_is(browser: Browser) -> None:
    with gateway(service(modes=frozenset({"device", "auto"}))) as live:
        page = await browser.new_page()
        await page.goto(live.url)
        await expect(page.locator("#mode option")).to_have_count(2)
        await page.evaluate("document.getElementById('mode').append(new Option('cloud', 'cloud'))")
        await page.select_option("#mode", "cloud")
        await page.fill("#prompt", EASY)
        await page.click("#send")
        await expect(page.locator("#verdict")).to_contain_text("is not one of auto, device")


async def test_several_clouds_are_shown_one_by_one(browser: Browser) -> None:
    with gateway(service()) as live:
        page = await browser.new_page()
        await page.goto(live.url)
        await expect(page.locator("#models .ready")).to_have_count(2)
        await expect(page.locator("#clouds")).to_be_hidden()
    world = World()
    world.says["small"].down = True
    with gateway(world.service()) as live:
        for name in ("small", "small", "large", "large"):
            await asyncio.to_thread(chat, live, headers={"x-selfroute-tags": name})
        page = await browser.new_page()
        seen = watched(page)
        await page.goto(live.url)
        await expect(page.locator("#arms tr")).to_have_count(len(NAMES))
        await expect(page.locator("#clouds-note")).to_contain_text("BernoulliThompson, mode act")
        await expect(page.locator('#arms tr[data-cloud="large"]')).to_contain_text("50.0 %")
        await expect(page.locator('#arms tr[data-cloud="small"]')).to_contain_text("rests: failed 2 times in a row")
        assert seen == []
