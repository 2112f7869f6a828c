"""Platform specifiers, `os[(version+feature…)][/architecture[/variant]]`, as containerd reads them.

The rules are those of github.com/containerd/platforms: what is left out is this machine's, spellings
of one thing are made one, and an image for an older processor of the same family will do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

from imgtool.errors import InvalidArgument
from imgtool.model import Platform, replace

_OS = re.compile(r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?", re.ASCII)
_PART = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_ESCAPE = {ord(c): f"%{ord(c):02X}" for c in "%+()/"}

# Go's lists of what it can build for.
_SYSTEM = re.compile(
    "aix|android|darwin|dragonfly|freebsd|hurd|illumos|ios|js|linux|nacl|netbsd|openbsd|plan9|solaris|windows|zos"
)
_ARCHITECTURE = re.compile(
    "386|amd64|amd64p32|arm|armbe|arm64|arm64be|ppc64|ppc64le|loong64|mips|mipsle|mips64|mips64le|mips64p32"
    "|mips64p32le|ppc|riscv|riscv64|s390|s390x|sparc|sparc64|wasm"
)
# uname's machine -> (architecture, variant); the rest is spelled alike or by `_architecture`.
_MACHINES = {
    "armv5tel": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "i686": ("386", ""),
    "loongarch64": ("loong64", ""),
}
_ARM64_MINORS = 9  # v8.0 to v8.9; v9.N runs what v8.(N+5) runs


@cache
def host() -> Platform:
    """What this machine runs."""
    import os

    uname = os.uname()
    machine = uname.machine
    architecture, variant = _MACHINES.get(machine) or _architecture(machine, "")
    return Platform(os=uname.sysname.lower(), architecture=architecture, variant=variant)


def parse(specifier: str) -> Platform:
    """The platform that `specifier` names, with this machine's values for what it leaves out.

    Raises:
        InvalidArgument: it is not of the form above; a single word is no known system or
            architecture.
    """
    parts = specifier.split("/", 3)
    head = _OS.fullmatch(parts[0])
    if not head or len(parts) > 3 or not all(_PART.fullmatch(p) for p in parts[1:]):
        raise InvalidArgument(
            f"invalid platform '{specifier[:80]}'", hint="os[(version)][/architecture[/variant]]: linux/arm64"
        )
    system = Platform(
        os=_system(head[1]),
        os_version=_unescape(head[2] or "", specifier),
        os_features=tuple(_unescape(f, specifier) for f in (head[3] or "").split("+")[1:]),
    )
    if len(parts) == 3:
        architecture, variant = _architecture(parts[1], parts[2])
        if architecture == "arm64" and not variant:
            variant = "v8"
        return replace(system, architecture=architecture, variant=variant)
    if len(parts) == 1 and _SYSTEM.fullmatch(system.os):
        here = host()
        return replace(system, architecture=here.architecture, variant=_unless_usual(here))
    architecture, variant = _architecture(parts[-1], "")
    found = replace(system, architecture=architecture, variant=variant)
    if len(parts) == 1:
        if not _ARCHITECTURE.fullmatch(architecture):
            raise InvalidArgument(f"platform '{specifier[:80]}' is no known operating system or architecture")
        found = replace(found, os=host().os)
    return replace(found, variant=_unless_usual(found))


def normalize(platform: Platform) -> Platform:
    """`platform` in its one spelling: `aarch64` is `arm64`, its `v8` is left out, `armhf` is `arm/v7`;
    features sorted, each once.
    """
    architecture, variant = _architecture(platform.architecture, platform.variant)
    return replace(
        platform,
        os=_system(platform.os),
        architecture=architecture,
        variant=variant,
        os_features=tuple(sorted(set(platform.os_features))),
    )


def format(platform: Platform) -> str:
    """`os/architecture/variant`, without the parts that are empty."""
    return _join(platform.os, platform)


def format_all(platform: Platform) -> str:
    """As `format`, with version and features of the system; `parse` reads it back."""
    version = platform.os_version.translate(_ESCAPE)
    features = "".join(f"+{f.translate(_ESCAPE)}" for f in sorted(set(platform.os_features)) if f)
    options = f"({version}{features})" if version or features else ""
    return _join(platform.os + options, platform)


def matches(wanted: Platform, candidate: Platform) -> bool:
    """Whether `candidate` is `wanted`, once both are normalised, and needs no more features. Versions
    count on Windows only.
    """
    normal = normalize(wanted)
    found = normalize(candidate)
    features = set(found.os_features)
    if normal.os == "windows":
        features.discard("win32k")
    return (
        (found.os, found.architecture, found.variant) == (normal.os, normal.architecture, normal.variant)
        and features <= set(normal.os_features)
        and _version_fits(normal, found)
    )


class Order:
    """Which platforms are acceptable, the best first."""

    def __init__(self, wanted: Iterable[Platform], *, any_architecture: bool = False) -> None:
        self._wanted = tuple(wanted)
        self._any = any_architecture

    def accepts(self, candidate: Platform) -> bool:
        if self._any:
            return self._same_system(candidate)
        return any(matches(w, candidate) for w in self._wanted)

    def sorted(self, candidates: Iterable[Platform]) -> list[Platform]:
        """`candidates`, the best first; equal ones keep their order."""
        from functools import cmp_to_key

        def compare(a: Platform, b: Platform) -> int:
            return -1 if self._less(a, b) else int(self._less(b, a))

        return sorted(candidates, key=cmp_to_key(compare))

    def _same_system(self, candidate: Platform) -> bool:
        normal, found = self._wanted[0], normalize(candidate)
        return (
            found.os == normal.os
            and set(found.os_features) <= set(normal.os_features)
            and _version_fits(normal, found)
        )

    def _less(self, a: Platform, b: Platform) -> bool:
        if self._any:
            fits = self._same_system(a), self._same_system(b)
            if fits != (True, True):
                return fits == (True, False)
        for w in self._wanted:
            fits = matches(w, a), matches(w, b)
            if fits == (True, True):
                return len(a.os_features) > len(b.os_features)
            if any(fits):
                return fits[0]
        if a.os_features or b.os_features:
            return self._less(replace(a, os_features=()), replace(b, os_features=()))
        return False


def only(platform: Platform) -> Order:
    """`platform`, then what its processor can run as well: arm/v7 takes v6 and v5, amd64 takes 386."""
    return Order(_runs(normalize(platform)))


def only_strict(platform: Platform) -> Order:
    """`platform` and nothing else."""
    return Order([normalize(platform)])


def only_os(platform: Platform) -> Order:
    """The system of `platform` on any processor, its own first."""
    return Order([normalize(platform)], any_architecture=True)


def _runs(p: Platform) -> Sequence[Platform]:
    """`p` and the platforms whose programs it runs, the best first."""
    if p.architecture == "amd64":
        return [p, *_older(p, 1), replace(p, architecture="386", variant="")]
    if p.architecture == "arm":
        return [p, *_older(p, 5)]
    if p.architecture == "arm64":
        own = _runs_arm64(p)
        return [*own, *_runs(replace(p, architecture="arm", variant="v8"))] if own else []
    return [p]


def _older(p: Platform, oldest: int) -> list[Platform]:
    """The variants before that of `p`, down to `oldest`; none where it has no number."""
    level = re.fullmatch(r"v?([0-9]{1,3})", p.variant, re.ASCII)
    return [replace(p, variant=f"v{n}") for n in range(int(level[1]) - 1, oldest - 1, -1)] if level else []


def _runs_arm64(p: Platform) -> list[Platform]:
    """The 64-bit part of `_runs`; none for a variant that is not known."""
    known = re.fullmatch(r"v([89])(?:\.([0-9]))?", p.variant or "v8", re.ASCII)
    if not known:
        return []
    major, minor = int(known[1]), int(known[2] or 0)
    if major == 9 and minor > 7:
        return []
    steps = [(8, n) for n in range(minor, -1, -1)]
    if major == 9:
        steps = [(9, n) for n in range(minor, -1, -1)]
        steps += [(8, n) for n in range(min(minor + 5, _ARM64_MINORS), -1, -1)]
    return [replace(p, variant=f"v{a}.{b}" if b else f"v{a}") for a, b in steps]


def _system(name: str) -> str:
    name = name.lower()
    return {"": host().os, "macos": "darwin"}.get(name, name)


def _architecture(name: str, variant: str) -> tuple[str, str]:
    name, variant = name.lower(), variant.lower()
    match name:
        case "i386":
            return "386", ""
        case "x86_64" | "x86-64" | "amd64":
            return "amd64", "" if variant == "v1" else variant
        case "aarch64" | "arm64":
            usual = {"8": "", "v8": "", "v8.0": "", "9": "v9", "9.0": "v9", "v9.0": "v9"}
            return "arm64", usual.get(variant, variant)
        case "armhf":
            return "arm", "v7"
        case "armel":
            return "arm", "v6"
        case "arm":
            return "arm", {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}.get(variant, variant)
    return name, variant


def _unless_usual(p: Platform) -> str:
    """The variant to show for an architecture that was given without one."""
    if p.architecture == "arm":
        return "" if p.variant == "v7" else p.variant
    return "" if p.architecture == "arm64" else p.variant


def _version_fits(wanted: Platform, found: Platform) -> bool:
    """Whether a Windows of version `wanted` runs containers of version `found`.

    The host's build decides: before Server 2022 it must be the same; since then it also runs those
    from the long-term release before its own.
    """
    host_version = _windows_version(wanted.os_version)
    if wanted.os != "windows" or not any(host_version) or not found.os_version:
        return True
    version = _windows_version(found.os_version)
    if host_version[:2] != version[:2]:
        return False
    build, oldest = host_version[2], 20348  # Server 2022
    if build < oldest:
        return build == version[2]
    if build > 26100:  # Server 2025
        oldest = 26100
    return oldest <= version[2] <= build


def _windows_version(text: str) -> tuple[int, int, int]:
    m = re.match(r"([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,5})(?:\.|$)", text, re.ASCII)
    if not m:
        return 0, 0, 0
    return int(m[1]), int(m[2]), int(m[3])


def _unescape(text: str, specifier: str) -> str:
    from urllib.parse import unquote

    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise InvalidArgument(f"invalid escape in platform '{specifier[:80]}'")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidArgument(f"invalid escape in platform '{specifier[:80]}'") from None


def _join(system: str, platform: Platform) -> str:
    if not platform.os:
        return "unknown"
    return "/".join(p for p in (system, platform.architecture, platform.variant) if p)
