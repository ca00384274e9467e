"""The package's layers, its light import, and what its C may not contain."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = PROJECT / "whisper_cy"

# A module imports only from lines above its own.
LAYERS = (
    ("errors", "threads", "dims"),
    ("kernels", "languages", "result"),
    ("vocabulary", "stored", "decode"),
    ("tokenizer", "torch_file", "safetensors_file", "ggml", "ct2", "samples"),
    ("openai_pt", "audio"),
    ("hugging_face",),
    ("weights",),
    ("models", "export", "model", "writers"),
    ("decoding",),
    ("transcribe",),
    ("api",),
    ("cli",),
    ("__init__", "__main__"),
)
LEVEL = {module: level for level, layer in enumerate(LAYERS) for module in layer}


def sources() -> dict[str, str]:
    files = {path.stem: path for path in PACKAGE.glob("*.py*") if path.suffix in (".py", ".pyx")}
    packages = {path.parent.name: path for path in PACKAGE.glob("*/__init__.py")}
    return {name: path.read_text("utf-8") for name, path in (files | packages).items()}


def imported(source: str) -> set[str]:
    """Modules of the package that the source imports, wherever in it."""
    if "cdef " in source:
        return set(re.findall(r"^\s*from whisper_cy\.(\w+) import", source, re.MULTILINE))
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            modules |= {name.split(".")[1] for name in names if name.startswith("whisper_cy.")}
        elif isinstance(node, ast.ImportFrom):
            within = re.fullmatch(r"(?:whisper_cy)?\.?(\w*).*", node.module or "")
            if not node.level and not (node.module or "").startswith("whisper_cy"):
                continue
            first = within[1] if within else ""
            modules |= {first} if first else {alias.name for alias in node.names}
    return modules & set(LEVEL)


def test_every_module_has_a_layer():
    assert set(sources()) == set(LEVEL)


def test_modules_import_only_from_lower_layers():
    wrong = [
        f"{name} imports {other}"
        for name, source in sources().items()
        for other in imported(source) - {"__init__"}
        if LEVEL[other] >= LEVEL[name]
    ]
    assert not wrong


def test_import_pulls_in_nothing_heavy():
    code = "import sys, whisper_cy; print(*{name.split('.')[0] for name in sys.modules})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "scipy", "torch", "transformers", "soundfile", "soxr", "av", "tokenizers"}
    heavy |= {"huggingface_hub", "safetensors", "tqdm", "requests", "httpx", "asyncio"}
    assert not heavy & set(out.stdout.split())


def test_no_flag_or_shortcut_that_the_design_rules_out():
    build = (PROJECT / "setup.py").read_text("utf-8")
    kernels = "".join(path.read_text("utf-8") for path in (PROJECT / "csrc").glob("*.h"))
    for flag in ("-march=native", "-ffast-math", "-Ofast"):
        assert flag not in build
    for forbidden in ("malloc(", "printf(", "__builtin_cpu_supports", "#if 0"):
        assert forbidden not in kernels
