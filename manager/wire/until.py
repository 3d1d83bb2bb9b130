"""What comes one by one, until something happens that ends it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeVar

from manager.domain.refusals import Refusal

T = TypeVar("T")


async def until(
    happens: asyncio.Event, items: AsyncIterator[T], refusal: Callable[[], Refusal]
) -> AsyncGenerator[T, None]:
    """The items, to their end; raises a refusal as soon as it happens, though no item comes."""
    happened = asyncio.ensure_future(happens.wait())
    try:
        while True:
            coming = asyncio.ensure_future(anext(items, None))
            try:
                await asyncio.wait((coming, happened), return_when=asyncio.FIRST_COMPLETED)
                if not coming.done() or happens.is_set():
                    raise refusal()
            finally:
                coming.cancel()
            item = coming.result()
            if item is None:
                return
            yield item
    finally:
        happened.cancel()
