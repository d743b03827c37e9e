"""Mutations of valid files: structure, values, text and bytes. Each takes a ``Random`` and the content of a file."""

from __future__ import annotations

import copy
import io
import json
import math
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

Mutation = Callable[[Random, bytes], bytes]

NUMBERS = (0, -1, 1, 2, 0.5, -0.0, 1e-30, 1e308, math.nan, math.inf, -math.inf, 2**31, 2**63, 2**64, 10**30, 10**290)
TEXTS = (
    "",
    " ",
    "x",
    "nan",
    "1e999",
    "true",
    "auto",
    "lora",
    "..",
    "../../x",
    "/no/such/folder",
    "a\0b",
    "~nobody-here/x",
    "\\\\server\\share",
    "\ud800",
    "\U0001f3b5\u0301\u202e",
    "[Instrumental]",
    "(.*)*(.*)*x",
    "x" * 300,
    "y" * 5_000,
    "9" * 5_000,
)


def hostile_value(random: Random) -> Any:
    """A value of any JSON type."""
    simple: list[Callable[[], Any]] = [
        lambda: random.choice(NUMBERS),
        lambda: random.choice(TEXTS),
        lambda: random.choice((None, True, False)),
        lambda: [hostile_value(random) for _ in range(random.randrange(3))],
        lambda: {random.choice(TEXTS): hostile_value(random) for _ in range(random.randrange(3))},
        lambda: _nested(random.choice((10, 60, 70, 150))),
    ]
    return random.choice(simple)()


def _nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def mutate_value(random: Random, value: Any) -> Any:
    """A copy of a JSON value with one change: an item dropped, replaced, retyped, nested, renamed or repeated."""
    value = copy.deepcopy(value)
    parents = [item for item in _containers(value) if item]
    if not parents:
        return hostile_value(random)
    parent = random.choice(parents)
    key: Any = random.choice(list(parent)) if isinstance(parent, dict) else random.randrange(len(parent))
    match random.randrange(7):
        case 0:
            del parent[key]
        case 1 | 2:
            parent[key] = hostile_value(random)
        case 3:
            parent[key] = random.choice((str(parent[key]), [parent[key]], {"a": parent[key]}, bool(parent[key])))
        case 4 if isinstance(parent, dict):
            parent[random.choice(TEXTS)] = parent.pop(key)
        case 5 if isinstance(parent, dict):
            parent[random.choice([*TEXTS, *parent])] = hostile_value(random)
        case 5 | 6 if isinstance(parent, list):
            parent.extend(parent[:1] * random.choice((1, 1000)))
        case _:
            others = [other for item in parents for other in (item.values() if isinstance(item, dict) else item)]
            parent[key] = copy.deepcopy(random.choice(others))
    return value


def _containers(value: Any) -> list[Any]:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [value, *(item for each in inner for item in _containers(each))]
    return []


def mutate_json(random: Random, data: bytes) -> bytes:
    """A JSON file with up to three changes."""
    value = json.loads(data)
    for _ in range(random.randrange(1, 4)):
        value = mutate_value(random, value)
    text = json.dumps(value, ensure_ascii=random.random() < 0.8)
    if random.random() < 0.03:
        text = text.replace("1", "[" * 100_000 + "]" * 100_000, 1)
    return text.encode(errors="surrogatepass")


def mutate_lines(random: Random, data: bytes) -> bytes:
    """A file of JSON lines with changes in one of them, or one that is dropped, repeated or moved."""
    lines = data.splitlines()
    index = random.randrange(len(lines))
    if random.random() < 0.7:
        lines[index] = mutate_json(random, lines[index])
    else:
        line = lines.pop(index)
        for _ in range(random.choice((0, 1, 100))):
            lines.insert(random.randrange(len(lines) + 1), line)
    return b"\n".join(lines) + b"\n"


def mutate_text(random: Random, data: bytes) -> bytes:
    """A text file or table with a hostile word, another delimiter, or a line that is dropped or repeated."""
    text = data.decode()
    lines = text.split("\n")
    index = random.randrange(len(lines))
    match random.randrange(4):
        case 0:
            words = lines[index].split(",")
            words[random.randrange(len(words))] = random.choice([*TEXTS, '"', "x" * 200_000, *map(str, NUMBERS)])
            lines[index] = ",".join(words)
        case 1:
            del lines[index]
        case 2:
            lines[index:index] = [lines[index]] * random.choice((1, 500))
        case _:
            lines = [line.replace(",", random.choice(";\t|:\0\r")) for line in lines]
    encoding = random.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"))
    errors = "replace" if encoding == "latin-1" else "surrogatepass"
    return "\n".join(lines).encode(encoding, errors)


def mutate_bytes(random: Random, data: bytes) -> bytes:
    """Flipped, removed, inserted or repeated bytes, or a part of the file."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        at = random.randrange(len(changed) + 1)
        match random.randrange(5):
            case 0 if changed:
                changed[at % len(changed)] = random.randrange(256)
            case 1:
                del changed[at : at + random.choice((1, 4, 100))]
            case 2:
                changed[at:at] = random.randbytes(random.choice((1, 8)))
            case 3:
                changed[at:at] = changed[max(0, at - 50) : at]
            case _:
                del changed[at:]
    return bytes(changed)


def mutate_safetensors(random: Random, data: bytes) -> bytes:
    """Changed tensors in a consistent file, or a changed header before the same data."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header.get("__metadata__")
    if random.random() < 0.3:
        text = mutate_json(random, data[8 : 8 + length])
        stated = random.choice((len(text),) * 5 + (0, len(text) - 1, len(text) + 1, 2**40, 2**63, 2**64 - 1))
        return stated.to_bytes(8, "little") + text + data[8 + length :]
    if random.random() < 0.3 and metadata:
        return save(load(data), _mutated_metadata(random, metadata))
    tensors = load(data)
    for _ in range(random.choice((1, 1, 3))):
        name = random.choice(list(tensors))
        if random.random() < 0.3:
            value = tensors.pop(name)
            if random.random() < 0.7:
                tensors[_renamed(random, name)] = value
        else:
            tensors[name] = hostile_tensor(random, tensors[name], dense=True)
        if not tensors:
            break
    return save({name: value.contiguous() for name, value in tensors.items()}, metadata)


def _renamed(random: Random, name: str) -> str:
    parts = name.split(".")
    parts[random.randrange(len(parts))] = random.choice(("0", "99", "alpha", "lora_A", "dora_scale", "x" * 300, ""))
    return ".".join(parts)


def _mutated_metadata(random: Random, metadata: dict[str, str]) -> dict[str, str]:
    name = random.choice(list(metadata))
    try:
        changed = mutate_json(random, metadata[name].encode()).decode(errors="replace")
    except ValueError:
        changed = str(random.choice(TEXTS[:14]))
    return {**metadata, name: changed.replace("\ud800", "")}


def mutate_archive(random: Random, data: bytes) -> bytes:
    """A ``torch.save`` file with changed tensors or metadata."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    if isinstance(content, Tensor):
        content = hostile_tensor(random, content)
    else:
        name = random.choice(list(content))
        if random.random() < 0.2:
            del content[name]
        elif isinstance(content[name], Tensor) and random.random() < 0.9:
            content[name] = hostile_tensor(random, content[name])
        elif isinstance(content[name], dict):
            content[name] = mutate_value(random, content[name])
        else:
            content[name] = hostile_value(random)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def hostile_tensor(random: Random, tensor: Tensor, *, dense: bool = False) -> Tensor:
    """Another shape, dtype or layout, or extreme values."""
    changed: list[Callable[[], Tensor]] = [
        lambda: torch.zeros([max(0, size + random.choice((-1, 1, 5))) for size in tensor.shape]),
        lambda: tensor.flatten(),
        lambda: tensor[None],
        lambda: tensor.transpose(0, -1).contiguous() if tensor.dim() else tensor[None],
        lambda: torch.zeros(0),
        lambda: torch.zeros(0, 64),
        lambda: torch.ones(random.choice((1, 5_000, 20_000)), 1),
        lambda: torch.ones(1, random.choice((1, 5_000, 20_000))),
        lambda: tensor.to(random.choice((torch.float8_e4m3fn, torch.int32, torch.bool, torch.float64, torch.float16))),
        lambda: torch.full_like(tensor, random.choice((0, 1))),
        lambda: torch.full(tensor.shape, random.choice((math.nan, math.inf, 3e38, -1e-45))),
        lambda: torch.tensor(random.choice((math.nan, -1.0, 0.0, 1e30, 4.0))),
    ]
    if not dense:
        changed += [
            lambda: torch.zeros(1).expand(10**6, 10**6),
            lambda: tensor.to_sparse() if tensor.dim() else tensor,
            lambda: tensor.to("meta"),
            lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
            lambda: tensor.to(torch.complex64),
        ]
    return random.choice(changed)()


def mutate(random: Random, name: str, data: bytes) -> bytes:
    """Any mutation that suits the file ``name``."""
    suffix = name.rpartition(".")[2]
    kinds: dict[str, Mutation] = {
        "json": mutate_json,
        "jsonl": mutate_lines,
        "safetensors": mutate_safetensors,
        "pt": mutate_archive,
        "csv": mutate_text,
        "txt": mutate_text,
    }
    changed = kinds[suffix](random, data) if random.random() < 0.8 else data
    return mutate_bytes(random, changed) if changed == data or random.random() < 0.1 else changed
