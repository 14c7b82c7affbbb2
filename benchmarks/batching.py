"""Tokens per second of the in-process embedded device, 16 requests at once against one at a time.

    python benchmarks/batching.py [--requests 48] [--at-once 16]

Both ways ask the same Countdown questions through `stream`, the way the gateway does, and have to get the same answers.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from selfroute import TEMPLATES, Countdown, Sampling, complete, embedded

SAMPLING = Sampling(max_tokens=256)


async def measure(requests: int, at_once: int) -> None:
    import torch

    torch.set_num_threads(1)
    template = TEMPLATES["think"]
    rows = [row for _, row in zip(range(requests), Countdown(seed=5, limit=requests).rows("test"), strict=False)]
    prompts = [template.device_messages(template.conversation(row.question)) for row in rows]
    device = embedded("device-gapg")
    await complete(device, prompts[0], SAMPLING)  # warm

    async def run(width: int) -> tuple[list[str], float]:
        gate = asyncio.Semaphore(width)

        async def one(number: int) -> tuple[str, int]:
            async with gate:
                answer = await complete(device, prompts[number], SAMPLING)
                return answer.text, answer.usage.completion_tokens

        began = time.perf_counter()
        answers = await asyncio.gather(*map(one, range(requests)))
        seconds = time.perf_counter() - began
        return [text for text, _ in answers], sum(tokens for _, tokens in answers) / seconds

    alone, slow = await run(1)
    together, fast = await run(at_once)
    same = sum(a == b for a, b in zip(alone, together, strict=True))
    print(f"one at a time  {slow:8.0f} tokens/s")
    print(f"{at_once:2} at once     {fast:8.0f} tokens/s   {fast / slow:.1f} times, {same} of {requests} answers equal")
    device.close()  # type: ignore[attr-defined]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--at-once", type=int, default=16)
    options = parser.parse_args()
    asyncio.run(measure(options.requests, options.at_once))
