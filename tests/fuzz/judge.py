"""What no answer may hold, whatever was asked."""

import json
import re
from collections import Counter
from dataclasses import dataclass, field

from tests.fuzz.answers import texts
from tests.wire.caller import LEAK, TOKEN

# beside what `tests.wire.caller` looks for: exceptions of libraries, and where they were raised
OF_PYTHON = re.compile(
    r"(?i:codec can't|invalid literal|not subscriptable|has no attribute|site-packages|0x[0-9a-f]{8})"
)
# what is the caller's own: the version that it says it speaks, cut to a hash's length
SPOKEN = re.compile(r"(?<=and the call came with ).{1,64}(?=: generate)")
# what gRPC's own server says of a path that is no UTF-8, see docs/security.md, and what it repeats of what it was sent:
# a number, and the last words of a client's goodbye
OF_GRPCIO = re.compile(
    r"(Unexpected <class 'UnicodeDecodeError'>: )?'utf-8' codec can't decode byte 0x\w\w in position \d+: [\w ]+"
    r"|0x[0-9a-f]{8}, got byte|Debug Text: .*",
    re.DOTALL,
)
LONGEST = 600


def leak(text: str) -> str | None:
    """What of the server's inside a refusal shows; None where it shows nothing."""
    own = SPOKEN.sub("", TOKEN.sub("", text))
    found = LEAK.search(own) or OF_PYTHON.search(own)
    return found.group() if found else None


@dataclass
class Judge:
    """Of all answers of one manager. `secrets` are canaries: what is in no answer, in no meter and in no line of its
    log."""

    secrets: tuple[bytes, ...] = ()
    codes: Counter[str] = field(default_factory=Counter)
    size: int = 0  # bytes that were looked at
    texts: int = 0  # that bad connections were told

    def answer(self, what: object, content: bytes) -> None:
        """Anything that came back."""
        self.size += len(content)
        for each in self.secrets:
            if each in content:
                before = content.partition(each)[0][-500:]
                raise AssertionError(f"a secret was shown: {each[:8]!r}... to {what!r}, behind {before!r}")

    def connection(self, what: object, heard: bytes) -> None:
        """All that a bad connection was answered; of what stands in it as text, nothing shows our inside."""
        self.answer(what, heard)
        for text in texts(heard):
            self.texts += 1
            self.answer(what, text.encode())
            shown = leak(OF_GRPCIO.sub("", text))
            assert shown is None, f"{shown!r} in {text!r}, to {what!r}"
            assert "incident" not in text, f"a fault of ours: {text!r}, to {what!r}"

    def refusal(self, what: object, code: str, text: str) -> None:
        """How a call was refused."""
        self.codes[code] += 1
        self.answer(what, text.encode())
        shown = leak(text)
        assert shown is None, f"{shown!r} in {text!r}, to {what!r}"
        assert "incident" not in text, f"a fault of ours: {text!r}, to {what!r}"
        assert text.isprintable(), (text, what)
        assert len(text) <= LONGEST, f"{len(text)} characters, to {what!r}: {text[:200]!r}"

    def refusal_over_http(self, what: object, status: int, kind: str, body: bytes) -> None:
        """The same where it came over HTTP, with a content type of that kind; for what is in words of ours."""
        text = body.decode().strip()
        told = json.loads(text) if "application/json" in kind else {"message": text}
        self.refusal(what, str(told.get("code", status)), told.get("message", ""))
        assert told.get("code") not in ("unknown", "data_loss"), (told, what)
