"""Damage sparse files at random and load them: no crash, no hang, no other weights, no large allocation.

    python benchmarks/fuzz_sparse_file.py --loads 1000000

Half of the damaged files have the old checksums: they must be refused or load unchanged. The other half have forged
checksums, so that they reach the code behind that check; such a file may load.

During each load the process may allocate at most twice the dense size of the undamaged network (RLIMIT_AS, which also
counts memory that is never written). A load that takes ten seconds of processor time ends the program. Each damage
depends only on the seed and its number: ``--first`` repeats one.
"""

import argparse
import faulthandler
import json
import random
import resource
import signal
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from directional_pruning import load_sparse, save_sparse
from directional_pruning.files import CorruptFileError

NUMBERS = [-1, 0, 1, 2, 255, 2**20, 2**31, 2**40, 2**62, 2**63, 10**30, 0.5, True, None, "F32", "BOOL", [], {}]


def network(elements: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def sparse(*shape: int) -> torch.Tensor:
        nonzero = torch.rand(shape, generator=generator) > 0.98
        return torch.where(nonzero, torch.randn(shape, generator=generator), 0.0)

    weight = sparse(elements // 100, 100)
    return {
        "weight": weight,
        "tied": weight,
        "half": sparse(50, 50).half(),
        "bias": torch.ones(30),
        "steps": torch.tensor(9),
        "mask": torch.eye(9).bool(),
    }


def damage(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    at = draw.randrange(len(data))
    match draw.randrange(4):
        case 0:
            return data[:at]
        case 1:
            for _ in range(draw.choice([1, 1, 2, 16])):
                changed[draw.randrange(len(data))] ^= draw.randrange(1, 256)
        case 2:
            changed[at : at + draw.randrange(64)] = draw.randbytes(draw.randrange(64))
        case 3:
            other = draw.randrange(len(data))
            changed[at : at + 64] = data[other : other + 64]
    return bytes(changed)


def forge(data: bytes, draw: random.Random) -> bytes:
    """Change a field of the table or the header, or a byte of a tensor, and make every checksum fit."""
    start = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:start]), bytearray(data[start:])
    table = json.loads(header["__metadata__"]["tensors"])
    name = draw.choice(list(table))
    match draw.randrange(6):
        case 0 | 1:
            body[draw.randrange(len(body))] ^= draw.randrange(1, 256)
        case 2:
            # The first bytes of a frame say how much memory decompressing it takes.
            at = draw.choice(frame_starts(header, table)) + draw.randrange(12)
            body[at] = draw.choice([0, 255, draw.randrange(256)])
        case 3:
            change(draw.choice([header, header["__metadata__"], header.get(name, header)]), draw)
        case _:
            change(table[name], draw, ["dtype", "shape", "values", "blocks", "same_as"])
    for name, fields in table.items():
        if isinstance(fields, dict) and "crc32" in fields and isinstance(header.get(name), dict):
            span = header[name].get("data_offsets")
            if isinstance(span, list) and len(span) == 2 and all(type(n) is int and n < 2**40 for n in span):
                fields["crc32"] = zlib.crc32(body[span[0] : span[1]])
    about, text = header.get("__metadata__"), json.dumps(table)
    if isinstance(about, dict) and draw.random() < 0.99:
        about.update(tensors=text, checksum=f"{zlib.crc32(text.encode()):08x}")
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + body


def frame_starts(header: dict, table: dict) -> list[int]:
    starts = []
    for name, entry in table.items():
        at = header[name]["data_offsets"][0] if "blocks" in entry else 0
        for row in entry.get("blocks", []):
            for length in row[1:]:
                starts.append(at)
                at += length
    return starts


def change(holder, draw: random.Random, fields: list[str] | None = None) -> None:
    """Replace a field, or an element inside it, by another value."""
    key = draw.choice(fields or list(holder))
    while isinstance(holder.get(key) if isinstance(holder, dict) else holder[key], list) and draw.random() < 0.8:
        if not holder[key]:
            break
        holder = holder[key]
        key = draw.randrange(len(holder))
    holder[key] = draw.choice(NUMBERS) if draw.random() < 0.7 else draw.randrange(2**16)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


@contextmanager
def at_most(more: int) -> Iterator[None]:
    """Limit the process to so many more bytes than now, and to ten seconds of processor time."""
    with open("/proc/self/statm") as file:
        current = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (current + more, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_PROF, 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def load(path: Path, state: dict[str, torch.Tensor], most: int) -> str:
    """Load a file and describe the outcome."""
    try:
        with at_most(most):
            loaded = load_sparse(path)
    except CorruptFileError as error:
        return "refused in more than one line" if "\n" in str(error) else "refused"
    except MemoryError:
        traceback.print_exc()
        return "asked for too much memory"
    except BaseException:  # a panic in safetensors would not be an Exception
        traceback.print_exc()
        return "crashes"
    return "accepted and identical" if same(loaded, state) else "accepted, other weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, default=20_000)
    parser.add_argument("--elements", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first damage")
    args = parser.parse_args()

    faulthandler.enable()
    state, count, longest = network(args.elements), Counter(), (0.0, 0)
    dense = sum(tensor.nbytes for name, tensor in state.items() if name != "tied")
    # A file in memory if possible, because the disk is not tested.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        path = Path(folder, "net.safetensors")
        originals = []
        for values in ("float32", "bfloat16"):
            save_sparse(state, path, values=values)
            originals.append((path.read_bytes(), load_sparse(path)))
            assert load(path, originals[-1][1], 2 * dense) == "accepted and identical"
        before, start_all = peak_bytes(), time.process_time()
        for number in range(args.first, args.first + args.loads):
            draw, forged = random.Random(args.seed * 2**40 + number), number % 2 == 1
            data, expected = originals[number // 2 % 2]
            path.write_bytes(forge(data, draw) if forged else damage(data, draw))
            start = time.process_time()
            outcome = load(path, expected, 2 * dense)
            longest = max(longest, (time.process_time() - start, number))
            accepted = outcome.startswith("accepted")
            count[outcome + " (forged checksums)" * (forged and accepted)] += 1
            if outcome != "refused" and not accepted:
                print(f"damage {number}: {outcome}", flush=True)
            if (number + 1 - args.first) % 50_000 == 0:
                print(f"after {number + 1 - args.first} loads: {dict(count)}", flush=True)
    seconds = time.process_time() - start_all
    print(
        f"loads {args.loads}, dense size {dense} bytes, files {[len(data) for data, _ in originals]} bytes, "
        f"{seconds:.0f} s of processor"
    )
    for outcome in sorted({*count, "refused", "crashes", "asked for too much memory", "accepted, other weights"}):
        print(f"  {outcome}: {count[outcome]}")
    print(f"  longest load: {1e3 * longest[0]:.1f} ms of processor (damage {longest[1]})")
    more = peak_bytes() - before
    print(f"  peak memory above an undamaged load: {more / 2**20:.1f} MiB, {more / dense:.2f} times the dense size")


if __name__ == "__main__":
    main()
