"""Whether this machine can do what Zhuzi's commands need: versions, GPU, kernels, memory, disk."""

from __future__ import annotations

import os
import platform
import re
import resource
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from zhuzi import __version__
from zhuzi._process import available_cores, has_gpu
from zhuzi._show import Report
from zhuzi.record.disk import free_bytes

#: What each extra of the package is for.
EXTRAS = {
    "train": "model extend, merge and export; pretrain, sft, eval, chat",
    "pages": "HTML pages (--html)",
    "demo": "zhuzi demo",
    "instruct": "zhuzi instruct",
    "export": "corpus export to a Hugging Face dataset",
    "gguf": "model export and vocab export for llama.cpp",
    "serve": "zhuzi serve",
    "tensorboard": "figures of a run in TensorBoard",
    "ray": "corpus encode --engine ray",
}

# A 7B in 16 bits, the least with which its steps can be done.
_DISK, _MEMORY = 30 * 10**9, 16 * 10**9


@dataclass(frozen=True)
class Finding:
    """Something that will not work, or not well."""

    what: str
    why: str
    remedy: str
    fails: bool = True  # False: it works, but slower or with less


@dataclass(frozen=True, repr=False)
class Checkup(Report):
    """What `examine` found."""

    versions: dict[str, str | None] = field(default_factory=dict)  # None: not installed
    machine: dict[str, Any] = field(default_factory=dict)
    gpus: list[dict[str, Any]] = field(default_factory=list)
    kernels: dict[str, bool] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)  # of the environment
    findings: list[Finding] = field(default_factory=list)

    def _headline(self) -> str:
        failing = sum(finding.fails for finding in self.findings)
        return f"{failing} that will not work, {len(self.findings) - failing} that could be better"

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values; sizes in bytes."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """All of it as text."""
        for name, held in (("versions", self.versions), ("machine", self.machine)):
            yield name
            for key, value in held.items():
                yield f"  {key:<24}{_shown(key, value)}"
        yield "GPU"
        for gpu in self.gpus:
            facts = ", ".join(f"{key} {_shown(key, held)}" for key, held in gpu.items() if key != "name")
            yield f"  {gpu['name']}: {facts}"
        if not self.gpus:
            yield "  none that torch can use: everything runs on the CPU, in fp32"
        yield "kernels"
        for name, works in self.kernels.items():
            yield f"  {name:<40}{'yes' if works else 'no'}"
        if self.settings:
            yield "settings"
        for key, value in self.settings.items():
            yield f"  {key:<24}{value}"
        for finding in self.findings:
            yield f"{'will not work' if finding.fails else 'could be better'}: {finding.what}: {finding.why}"
            yield f"  {finding.remedy}"
        if not self.findings:
            yield "nothing is missing"


def examine(place: str | Path = ".") -> Checkup:
    """Look at the machine; loads torch if it is installed. `place` is where outputs will be written."""
    found = Checkup()
    _versions(found)
    _machine(found, Path(place))
    _torch(found)
    names = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    found.settings.update({name: os.environ[name] for name in names if name in os.environ})
    return found


def _versions(found: Checkup) -> None:
    """Ours, Python's, and those of what the package and its extras ask for."""
    found.versions.update({"zhuzi": __version__, "python": platform.python_version()})
    missing: dict[str, list[str]] = {}
    for extra, name, bounds in sorted(_required(), key=lambda it: it[1]):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.versions[name] = None
            missing.setdefault(extra, []).append(name)
            continue
        found.versions[name] = version
        if not _is_within(version, bounds):
            found.findings.append(
                Finding(
                    EXTRAS.get(extra, "all commands"),
                    f"{name} is {version}, tested with {bounds}",
                    f"pip install '{name}{bounds}'",
                    fails=False,
                )
            )
    for extra, names in missing.items():
        packages = ", ".join(names)
        found.findings.append(
            Finding(
                EXTRAS.get(extra, "all commands"),
                f"{packages} {'is' if len(names) == 1 else 'are'} not installed",
                f"pip install 'zhuzi[{extra}]'" if extra else "install zhuzi again",
            )
        )


def _required() -> set[tuple[str, str, str]]:
    """(extra, package, bounds) of what the package asks for; of its extras, those that users take."""
    try:
        lines = metadata.requires("zhuzi") or []
    except metadata.PackageNotFoundError:  # run from its sources
        return set()
    found = set()
    for line in lines:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        name = re.match(r"\s*([\w.-]+)(\[[^]]*\])?\s*", requirement)
        if name is None or name[1] == "zhuzi" or (extra and extra[1] not in EXTRAS):
            continue
        found.add((extra[1] if extra else "", name[1], requirement[name.end() :].strip()))
    return found


def _is_within(version: str, bounds: str) -> bool:
    try:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet
    except ModuleNotFoundError:
        return True
    try:
        return SpecifierSet(bounds, prereleases=True).contains(version)
    except InvalidSpecifier:
        return True


def _machine(found: Checkup, place: Path) -> None:
    memory, free_memory = _memory()
    processor, features = _processor()
    cache = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    found.machine.update(
        {
            "system": platform.platform(terse=True),
            "processor": processor,
            "cores": available_cores(),
            "memory": memory,
            "free memory": free_memory,
            "free disk": free_bytes(place),
            "free disk, hub cache": free_bytes(cache),
        }
    )
    found.kernels["encoding with vector instructions"] = "avx2" in features or "asimd" in features
    if not found.kernels["encoding with vector instructions"]:
        found.findings.append(
            Finding("corpus encode", "the processor has no AVX2", "it works, more slowly", fails=False)
        )
    if free_memory is not None and free_memory < _MEMORY:
        found.findings.append(
            Finding(
                "a 7B on the CPU",
                f"{_size(free_memory)} of memory are free, and its 16-bit weights alone are 13 GB",
                "end other programs, or take a larger machine; `zhuzi model plan` says what a run needs",
                fails=False,
            )
        )
    if free_bytes(place) < _DISK:
        found.findings.append(
            Finding(
                "the steps of a 7B",
                f"{_size(free_bytes(place))} are free on the disk of {place.absolute()}; base, extended and "
                "merged model are 13 GB each",
                "free some, or write to another disk",
                fails=False,
            )
        )
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY:
        found.machine["largest file"] = limit
        found.findings.append(
            Finding("large models", f"files are limited to {_size(limit)} (ulimit -f)", "raise the limit")
        )


def _torch(found: Checkup) -> None:
    """What torch sees and what its kernels do here."""
    if found.versions.get("torch", "") is None:
        return
    torch = _attempt(found, "training, chat and eval", "torch does not load", lambda: __import__("torch"))
    if torch is None:
        return
    found.versions["torch"] = torch.__version__
    if not torch.cuda.is_available():
        _no_gpu(found, torch)
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        _attempt(found, f"GPU {number}", "it cannot be used", partial(_gpu, found, torch, number))
    device = torch.device("cuda" if found.gpus else "cpu")
    from_layers = _attempt(found, "training", "its libraries do not load", _import_layers)
    if from_layers is not None:
        lacks = from_layers.what_is_missing(device)
        found.kernels["compiled layers (torch.compile)"] = lacks is None
        if lacks is not None and found.gpus:
            found.findings.append(
                Finding(
                    "compile: auto", f"it needs {lacks}", "install it; without it training is slower", False
                )
            )
    for bits in (8, 4):
        works = _attempt(
            found,
            f"base_bits: {bits}",
            "bitsandbytes does not quantise here",
            partial(_quantises, torch, device, bits),
        )
        found.kernels[f"{bits}-bit base (bitsandbytes)"] = bool(works)
    found.kernels["bfloat16"] = bool(found.gpus) and torch.cuda.is_bf16_supported(including_emulation=False)
    if found.gpus and not found.kernels["bfloat16"]:
        found.findings.append(
            Finding(
                "training in bf16", "the GPU has no bf16", "fp16 is used, which can overflow", fails=False
            )
        )


def _no_gpu(found: Checkup, torch: Any) -> None:
    if not has_gpu():
        return
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        why, remedy = (
            f"torch {torch.__version__} is built for the CPU",
            "install a torch with CUDA: see pytorch.org",
        )
    else:
        why = f"torch {torch.__version__} is built for CUDA {torch.version.cuda} and finds no GPU"
        remedy = "the driver is too old for it, or the GPU is not given to this container: see nvidia-smi"
    found.findings.append(Finding("the GPU of this machine", why, remedy))


def _gpu(found: Checkup, torch: Any, number: int) -> bool:
    from zhuzi.train.speed import peak_flops

    properties = torch.cuda.get_device_properties(number)
    free, memory = torch.cuda.mem_get_info(number)
    peak = peak_flops(properties.name)
    architecture = f"sm_{properties.major}{properties.minor}"
    found.gpus.append(
        {
            "name": properties.name,
            "memory": memory,
            "free memory": free,
            "architecture": architecture,
            "TFLOP/s": None if peak is None else round(peak / 1e12),
        }
    )
    torch.ones(8, device=f"cuda:{number}").sum().item()  # fails where torch has no code for it
    if free < memory // 2:
        found.findings.append(
            Finding(
                f"GPU {number}",
                f"{_size(memory - free)} of its {_size(memory)} are in use",
                "end what uses it: see nvidia-smi",
                fails=False,
            )
        )
    return True


def _import_layers() -> Any:
    from zhuzi.train import layers

    return layers


def _quantises(torch: Any, device: Any, bits: int) -> bool:
    """Whether a small matrix can be quantised and multiplied."""
    from bitsandbytes import nn

    kind: Any = nn.Linear8bitLt if bits == 8 else nn.Linear4bit
    options: dict[str, Any] = {"has_fp16_weights": False} if bits == 8 else {"quant_type": "nf4"}
    layer = kind(64, 64, bias=False, **options).to(device)
    with torch.no_grad():
        product = layer(
            torch.ones(4, 64, device=device, dtype=torch.float16 if device.type == "cuda" else None)
        )
    return bool(torch.isfinite(product).all())


def _attempt(found: Checkup, what: str, why: str, act: Callable[[], Any]) -> Any:
    """What `act` gives; None if it fails, which is then a finding."""
    try:
        return act()
    except Exception as error:  # of torch, CUDA, bitsandbytes or the loader
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        found.findings.append(
            Finding(what, f"{why} ({reason})", "install it anew: pip install 'zhuzi[train]'")
        )
        return None


def _memory() -> tuple[int | None, int | None]:
    """Bytes of memory, in all and free, as far as a container may use them."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        held = {key: int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable")}
    except (OSError, KeyError, ValueError):
        return None, None
    total, free = held["MemTotal"], held["MemAvailable"]
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return total, free
    return min(total, limit), min(free, max(0, limit - used))


def _processor() -> tuple[str, set[str]]:
    """Its name, and its instruction sets."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return platform.processor() or platform.machine(), set()
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.M)
    return (name[1] if name else platform.machine()), set(flags[1].split() if flags else ())


def _size(size: int) -> str:
    return f"{size / 10**9:.1f} GB"


def _shown(name: str, value: object) -> str:
    if value is None:
        return "not installed" if name not in _SIZES | {"TFLOP/s"} else "not known"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {held}" for key, held in value.items())
    return _size(value) if name in _SIZES and isinstance(value, int) else str(value)


_SIZES = {"memory", "free memory", "free disk", "free disk, hub cache", "largest file"}
