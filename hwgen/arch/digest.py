"""A fingerprint of an architecture, by which host and hardware check that they mean the same one."""

import dataclasses
import hashlib
import json

from hwgen.arch.config import Arch


def canonical_json(arch: Arch) -> str:
    """Text that is equal for equal architectures: every setting of parts that there are, keys sorted, no spaces."""
    settings = {name: part for name, part in dataclasses.asdict(arch).items() if part is not None}
    return json.dumps(settings, sort_keys=True, separators=(",", ":"))


def hash32(arch: Arch) -> int:
    """First 32 bits of the SHA-256 of `canonical_json`, as the ARCH_HASH register holds them."""
    return int.from_bytes(hashlib.sha256(canonical_json(arch).encode("ascii")).digest()[:4], "big")
