"""Feed every parser of untrusted input with almost valid inputs, and check its documented behaviour.

The inputs are real ones with a few mistakes, from a seed, so that a failure can be reproduced. The parsers in C have
separate, coverage-guided fuzzers beside their sources; ``scripts/fuzz`` runs both.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.figure import Figure, report
from bench.fuzz_targets import Broken, Target, targets

_FRAGMENTS: Final = (
    *(
        b"null",
        b"true",
        b"NaN",
        b"-",
        b"1e999",
        b"-0.0",
        b"18446744073709551616",
        b"0.1e-400",
        b"\x00",
        b"\xff",
        b"\r\n",
    ),
    *(
        b'"',
        b"\\u0000",
        b"\\ud800",
        b"{",
        b"}",
        b"[",
        b"]",
        b"[" * 1500,
        b",",
        b":",
        b"/",
        b"+",
        b"#",
        b"$share/",
        b"%",
    ),
    *(b"@", b"(", b")", b"tcp(", b"unix(", b"?", b"&", b"=", b"://", b"'", b"1970-01-01T00:00:00Z", b"9999-12-31"),
)


def mutated(rng: random.Random, samples: Sequence[bytes]) -> bytes:
    """Return one of ``samples`` with up to six mistakes."""
    data = bytearray(rng.choice(samples))
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(data))
        match rng.randrange(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.randrange(256)
            case 2:
                data[at:at] = rng.choice(_FRAGMENTS)
            case 3:
                del data[at : at + rng.randint(1, 8)]
            case 4:
                data[at:at] = data[max(0, at - rng.randint(1, 40)) : at]
            case 5:
                del data[at:]
            case _:
                other = rng.choice(samples)
                data[at:] = other[rng.randint(0, len(other)) :]
    return bytes(data)


def fuzz(target: Target, inputs: int, seed: int) -> Figure:
    """Feed ``target`` with this many inputs.

    Raises:
        Broken: it violated its documentation; the cause says how, the message has the input.
    """
    rng = random.Random(f"{seed} {target.name}")
    began = time.monotonic()
    for number in range(inputs):
        data = mutated(rng, target.samples)
        try:
            target.feed(data)
        except Exception as error:
            raise Broken(f"{target.name}, input {number} of seed {seed}: {data!r}: {error!r}") from error
    seconds = time.monotonic() - began
    return Figure(f"fuzz {target.name}", inputs, "inputs", conditions={"seed": seed, "seconds": round(seconds, 1)})


def fuzz_all(argv: Sequence[str] | None = None) -> int:
    """Run the fuzzers; return 1 if a parser violated its documentation."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Feed every parser with almost valid inputs.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="inputs for each parser (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the inputs (default: %(default)s)")
    parser.add_argument("--only", help="name of the only parser to test")
    given = parser.parse_args(argv)
    # In memory if possible: some parsers read files, a million times.
    memory = Path("/dev/shm")  # noqa: S108  # the directory below is private
    with tempfile.TemporaryDirectory(prefix="ntpfuzz-", dir=memory if memory.is_dir() else None) as directory:
        chosen = [t for t in targets(Path(directory)) if given.only in (None, t.name)]
        if not chosen:
            parser.error(f"--only {given.only}: there is no such parser")
        return max(report(figure) for figure in _figures(chosen, given.inputs, given.seed))


def _figures(chosen: Sequence[Target], inputs: int, seed: int) -> Iterator[Figure]:
    for target in chosen:
        yield fuzz(target, inputs, seed)


if __name__ == "__main__":
    raise SystemExit(fuzz_all())
