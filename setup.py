"""Build of the one extension module: csrc/kernels.c once per level, all levels linked together.

A level whose flags this compiler does not take, or that is another processor family's, is left out,
and the build says so. WHISPER_CY_CFLAGS adds flags to every object (a sanitizer, -Werror);
WHISPER_CY_LDFLAGS to the link.
"""

import os
import platform
import shlex
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

AVX512 = ["-march=x86-64-v4", "-mprefer-vector-width=512"]
X86_LEVELS = {
    "baseline": ["-march=x86-64-v2"],
    "avx2": ["-march=x86-64-v3"],
    "avx512": AVX512,
    "avx512vnni": [*AVX512, "-mavx512vnni"],
    "amx": [*AVX512, "-mavx512vnni", "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8"],
}
OTHER_LEVELS: dict[str, list[str]] = {"baseline": []}
# gnu11 lets a * b + c become one fused operation; vectors pass only between inlined functions
COMMON = ["-std=gnu11", "-O3", "-fopenmp", "-Wall", "-Wextra", "-Wno-psabi"]
C_SOURCES = sorted(str(path) for path in Path("csrc").glob("*.[ch]"))
EXTRA = shlex.split(os.environ.get("WHISPER_CY_CFLAGS", ""))
LINK_EXTRA = shlex.split(os.environ.get("WHISPER_CY_LDFLAGS", ""))


class BuildLevels(build_ext):
    """Compiles every level and the dispatcher into objects, then hands them to the link."""

    def build_extension(self, ext: Extension) -> None:
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        levels = self.taken(X86_LEVELS if x86 else OTHER_LEVELS)
        folder = Path(self.build_temp) / "levels"
        objects = []
        for name, flags in levels.items():
            macros = [("WCY_LEVEL", name)]
            objects += self.objects("csrc/kernels.c", folder / name, macros, flags)
        have = [(f"WCY_HAVE_{name}", "1") for name in levels if name != "baseline"]
        objects += self.objects("csrc/dispatch.c", folder, have, [])
        ext.extra_objects = [*ext.extra_objects, *objects]
        super().build_extension(ext)

    def objects(
        self, source: str, folder: Path, macros: list[tuple[str, str]], flags: list[str]
    ) -> list[str]:
        return self.compiler.compile(
            [source],
            output_dir=str(folder),
            macros=macros,
            depends=C_SOURCES,
            extra_postargs=[*COMMON, *flags, *EXTRA],
        )

    def taken(self, levels: dict[str, list[str]]) -> dict[str, list[str]]:
        """The levels whose flags the compiler takes."""
        kept = {}
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder) / "probe.c"
            probe.write_text("int probe(void) { return __builtin_cpu_supports(FEATURE); }\n")
            for name, flags in levels.items():
                feature = {"amx": '"amx-bf16"', "avx512vnni": '"avx512vnni"'}.get(name, '"sse2"')
                if name == "baseline":
                    kept[name] = flags
                    continue
                try:
                    self.compiler.compile(
                        [str(probe)],
                        output_dir=folder,
                        macros=[("FEATURE", feature)],
                        extra_postargs=flags,
                    )
                    kept[name] = flags
                except CompileError:
                    self.announce(f"level {name} left out: the compiler does not take it", 3)
        return kept


kernels = Extension(
    "whisper_cy.kernels",
    ["whisper_cy/kernels.pyx"],
    include_dirs=["csrc"],
    depends=C_SOURCES,  # which also takes them along into a source distribution
    extra_compile_args=["-O2", "-fopenmp", *EXTRA],
    extra_link_args=["-fopenmp", *LINK_EXTRA],
)
setup(ext_modules=[kernels], cmdclass={"build_ext": BuildLevels})
