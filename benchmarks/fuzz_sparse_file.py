"""Damage sparse checkpoints at random and load them: none may crash, load other weights, or take more memory.

    python benchmarks/fuzz_sparse_file.py --loads 100000

Half of the damage leaves the checksums as they were; it must be refused or change nothing. The other half has
checksums made to fit, as a forger would, so that it reaches the code behind them; such a file may load.
"""

import argparse
import json
import random
import resource
import tempfile
import traceback
import zlib
from collections import Counter
from pathlib import Path

import torch

from directional_pruning import load_sparse, save_sparse
from directional_pruning.files import CorruptFileError

NUMBERS = [-1, 0, 1, 2, 255, 2**20, 2**31, 2**40, 2**62, 2**63, 10**30, 0.5, True, None, "F32", "BOOL", [], {}]


def network(elements: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def sparse(*shape: int) -> torch.Tensor:
        kept = torch.rand(shape, generator=generator) > 0.92
        return torch.randn(shape, generator=generator) * kept

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
    """Change a field of the table or a byte of a tensor, and make every checksum fit."""
    start = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:start]), bytearray(data[start:])
    table = json.loads(header["__metadata__"]["tensors"])
    entry = table[draw.choice(list(table))]
    if draw.random() < 0.5:
        body[draw.randrange(len(body))] ^= draw.randrange(1, 256)
    else:
        field = draw.choice(["dtype", "shape", "values", "blocks", "same_as"])
        holder, key = entry, field
        while isinstance(holder.get(key) if isinstance(holder, dict) else holder[key], list) and draw.random() < 0.8:
            holder = holder[key]
            if not holder:
                break
            key = draw.randrange(len(holder))
        if isinstance(holder, dict) or holder:
            holder[key] = draw.choice(NUMBERS) if draw.random() < 0.7 else draw.randrange(2**16)
    for name, fields in table.items():
        if "crc32" in fields and name in header:
            begin, end = header[name]["data_offsets"]
            fields["crc32"] = zlib.crc32(body[begin:end])
    text = json.dumps(table)
    header["__metadata__"].update(tensors=text, checksum=f"{zlib.crc32(text.encode()):08x}")
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + body


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, default=20_000)
    parser.add_argument("--elements", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    draw, count = random.Random(args.seed), Counter()
    state = network(args.elements)
    dense = sum(tensor.nbytes for name, tensor in state.items() if name != "tied")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.safetensors")
        save_sparse(state, path)
        load_sparse(path)
        data, before = path.read_bytes(), peak_bytes()
        for number in range(args.loads):
            forged = number % 2 == 1
            path.write_bytes(forge(data, draw) if forged else damage(data, draw))
            try:
                loaded = load_sparse(path)
            except CorruptFileError as error:
                count["refused"] += 1
                count["refused in more than one line"] += "\n" in str(error)
            except BaseException:  # a panic in safetensors would not be an Exception
                count["crashes"] += 1
                traceback.print_exc()
                if count["crashes"] > 10:
                    break
            else:
                kind = "accepted and identical" if same(loaded, state) else "accepted, other weights"
                count[kind + " (forged checksums)" * forged] += 1
    print(f"loads {args.loads}, dense size {dense} bytes, file {len(data)} bytes")
    for outcome in sorted({*count, "refused", "accepted and identical", "accepted, other weights", "crashes"}):
        print(f"  {outcome}: {count[outcome]}")
    more = peak_bytes() - before
    print(f"  peak memory over that of a sound load: {more / 2**20:.1f} MiB, {more / dense:.2f} times the dense size")


if __name__ == "__main__":
    main()
