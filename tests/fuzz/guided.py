"""`python -m tests.fuzz.guided RUNS FOLDER`: every decoder by atheris, which keeps what has reached something new.

The first byte says which decoder. The folder holds the corpus: it begins with right messages, one of each kind.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["manager"]):
    from tests.fuzz.amount import SEED, chance
    from tests.fuzz.decoders import BINARY, JSON, OTHERS, Decoder
    from tests.fuzz.spoiler import Spoiler
    from tests.fuzz.test_decoders import HEADERS, LINES, tried

DECODERS: list[Decoder] = [decoder for _, decoder in (*BINARY.values(), *JSON.values())]
DECODERS += OTHERS.values()
LONGEST = 4096


def one(content: bytes) -> None:
    """Raises AssertionError, or whatever the decoder raises, where it is not a refusal in our words."""
    if content:
        tried(DECODERS[content[0] % len(DECODERS)], content[1:])


def sown(folder: Path) -> None:
    """Something right for each decoder to begin with."""
    spoiler = Spoiler(chance("guided"))
    methods = [method for method, _ in BINARY.values()]
    seeds = [
        *(spoiler.message(each.input_type) for each in methods),
        *(spoiler.json(each.input_type) for each in methods),
    ]
    seeds += [
        (*LINES, *HEADERS, spoiler.token())[number % (len(LINES) + len(HEADERS) + 1)] for number in range(len(OTHERS))
    ]
    for number, content in enumerate(seeds):
        (folder / str(number)).write_bytes(bytes([number]) + content)


if __name__ == "__main__":
    runs, corpus = sys.argv[1:]
    sown(Path(corpus))
    # a crash is kept beside the corpus
    options = [
        f"-runs={runs}",
        f"-seed={SEED}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={corpus}/",
        "-rss_limit_mb=1024",
    ]
    atheris.Setup([sys.argv[0], *options, corpus], one)
    atheris.Fuzz()
