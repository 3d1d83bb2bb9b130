"""The turnstile: few at a time, in order, and nobody who left holds up the others."""

import asyncio

from manager.wire.turnstile import Turnstile


async def test_as_many_as_it_is_wide_pass_in_a_round_and_the_others_after_them() -> None:
    turnstile, passed = Turnstile(3), []

    async def go(number: int) -> None:
        await turnstile.passed()
        passed.append(number)

    tasks = [asyncio.create_task(go(number)) for number in range(10)]
    lengths = []
    while len(passed) < 10:
        await asyncio.sleep(0)
        lengths.append(len(passed))
    await asyncio.gather(*tasks)
    assert passed == list(range(10))
    assert all(after - before <= 3 for before, after in zip([0, *lengths], lengths, strict=False))


async def test_who_comes_alone_never_waits() -> None:
    turnstile = Turnstile(1)
    for _ in range(5):
        step = turnstile.passed()
        try:
            step.send(None)
        except StopIteration:
            pass
        else:
            raise AssertionError("it waited")
        await asyncio.sleep(0)


async def test_who_leaves_takes_nobodys_place() -> None:
    turnstile, passed = Turnstile(1), []

    async def go(number: int) -> None:
        await turnstile.passed()
        passed.append(number)

    tasks = [asyncio.create_task(go(number)) for number in range(6)]
    await asyncio.sleep(0)
    for number in (2, 3):
        tasks[number].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert passed == [0, 1, 4, 5]


async def test_others_get_their_turn_between() -> None:
    """A thousand senders, each of whom has a hundred messages, and somebody who needs twenty rounds."""
    turnstile, sent = Turnstile(32), 0

    async def send() -> None:
        nonlocal sent
        for _ in range(100):
            await turnstile.passed()
            sent += 1

    senders = [asyncio.create_task(send()) for _ in range(1_000)]
    await asyncio.sleep(0)
    before = sent
    for _ in range(20):
        await asyncio.sleep(0)
    assert sent - before <= 32 * 21
    for each in senders:
        each.cancel()
    await asyncio.gather(*senders, return_exceptions=True)
