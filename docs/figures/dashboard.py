"""Draws dashboard.png: the embedded pair behind `selfroute serve` under a budget, after some Countdown questions.

    python docs/figures/dashboard.py [--width 1180] [--dark] [--out docs/figures/dashboard.png]

Needs Chromium (apt-get install chromium) and the extras serve, train and dev.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import threading
import time
from pathlib import Path

import httpx2 as httpx
import uvicorn
from playwright.sync_api import expect, sync_playwright

from selfroute.assemble.serving import make_gateway
from selfroute.config import Spec, make_task
from selfroute.config.serving import build_serve_recipe

QUESTIONS = 12
RECIPE = {
    "prices": {"cloud": {"prompt_usd": 2, "completion_usd": 8}},
    "budget": {"share": 0.3, "usd": {"per_month": 5}, "ledger": "memory"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1180)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("dashboard.png"))
    arguments = parser.parse_args()
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    recipe = build_serve_recipe(RECIPE, where="dashboard")
    server = uvicorn.Server(uvicorn.Config(make_gateway(recipe), log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        question = ask_some(url)
        draw(url, question, arguments.width, arguments.out, dark=arguments.dark)
    finally:
        server.should_exit = True
        thread.join(20)


def ask_some(url: str) -> str:
    """Ask problems of Countdown, so that the page has something to show; gives one that went to the cloud."""
    handed_off = ""
    with httpx.Client(base_url=url, timeout=120) as client:
        deadline = time.monotonic() + 120
        while client.get("/readyz").status_code != 200:
            if time.monotonic() > deadline:
                raise SystemExit("the models did not load within 120 s")
            time.sleep(0.5)
        task = make_task(Spec("countdown"), seed=5, limit=QUESTIONS)
        for row in list(task.rows("test"))[:QUESTIONS]:
            body = {"model": "selfroute", "messages": [{"role": "user", "content": row.question}]}
            answer = client.post("/v1/chat/completions", json=body).raise_for_status()
            if answer.headers["x-selfroute-reason"] == "hand-off" or not handed_off:
                handed_off = row.question
    return handed_off


def draw(url: str, question: str, width: int, out: Path, *, dark: bool) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", device_scale_factor=1
        )
        page.goto(url)
        page.fill("#prompt", question)
        page.press("#prompt", "Control+Enter")
        expect(page.locator("#verdict")).to_contain_text("answered by", timeout=120_000)
        page.screenshot(path=out, full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
