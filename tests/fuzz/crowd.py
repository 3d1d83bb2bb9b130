"""Who comes to a manager's ports, and means no good."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from manager.settings import Transport
from tests.fuzz import frames, requests, seals
from tests.fuzz.strangers import Stranger

# gRPC's own parser keeps 60 bytes for each byte that names a header of its table, until it says that they are too many
BEYOND_GRPCIO = ("header_bomb",)
OF = {"grpc": frames, "http": requests}
ALPN = {"grpc": "h2", "http": "http/1.1"}


def crowd(side: str, transport: Transport, ca: Path | None) -> Mapping[str, Stranger]:
    """All kinds of them for the `grpc` port or the `http` port; with the authority of its certificate by TLS too."""
    skipped = BEYOND_GRPCIO if transport is Transport.GRPCIO else ()
    kinds = {name: each for name, each in OF[side].KINDS.items() if name not in skipped}
    if ca:
        return seals.strangers(ca, kinds, ALPN[side])
    return {name: Stranger(each) for name, each in kinds.items()}


def half_way(side: str, ca: Path | None) -> Sequence[Stranger]:
    """Those of them who leave what they begin undone."""
    scripts = (OF[side].never_read, OF[side].cut_off)
    if ca is None:
        return [Stranger(each) for each in scripts]
    agreed = [Stranger(each, seals.within(ALPN[side], ca=ca)) for each in scripts]
    return [*agreed, Stranger(seals.nothing, seals.half_way(ca)), Stranger(seals.hello_cut_off)]
