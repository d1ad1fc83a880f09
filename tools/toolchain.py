"""Which compilers build fastad, and for which GPUs a release of nvcc compiles.

Everything is asked of the tools themselves, so that no table of releases grows old.
"""

import re
import shlex
import subprocess
from collections.abc import Callable

# The oldest versions that the tests were run with. Older ones lack parts of C++20.
OLDEST_GCC, OLDEST_CLANG = 11, 14
WHAT_WORKS = f"install g++ {OLDEST_GCC} or newer, or clang {OLDEST_CLANG} or newer, and set CXX"

# Macros of the compiler and of its C++ library, as `#define NAME VALUE`.
PREPROCESS = ["-std=c++20", "-dM", "-E", "-x", "c++", "-"]
PROBE = "#if __has_include(<version>)\n#include <version>\n#endif\n"

# GPUs that get machine code of their own. It runs on later minor versions too: that of 8.6 on 8.7,
# that of 10.0 on 10.3, that of 12.0 on 12.1.
GPUS = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "11.0", "12.0")


def compiler_obstacle(compiler: str) -> str | None:
    """Why a C++ compiler cannot build fastad, and what could, in one sentence; or None.

    `compiler` is a command, as in $CXX. It is one that takes the options of g++.
    """
    command = [*shlex.split(compiler), *PREPROCESS]
    run = subprocess.run(command, input=PROBE, capture_output=True, text=True)
    macros = dict(re.findall(r"^#define (\w+) (.*)$", run.stdout, re.MULTILINE))
    if "__clang_major__" in macros:
        name, oldest = "clang", OLDEST_CLANG
        major, minor = macros["__clang_major__"], macros.get("__clang_minor__", "0")
    elif "__GNUC__" in macros:
        name, oldest = "g++", OLDEST_GCC
        major, minor = macros["__GNUC__"], macros.get("__GNUC_MINOR__", "0")
    else:
        return f"{compiler!r} does not compile C++20; {WHAT_WORKS}"
    if int(major) < oldest:
        return f"{compiler!r} is {name} {major}.{minor}, which is too old; {WHAT_WORKS}"
    if "__cpp_lib_bit_cast" not in macros:
        return (
            f"the C++ library that {compiler!r} ({name} {major}.{minor}) uses has no "
            f"std::bit_cast; install that of g++ {OLDEST_GCC} or newer, for example "
            f"apt install libstdc++-{OLDEST_GCC}-dev"
        )
    return None


def gpus(listed: str) -> list[str]:
    """Those of `GPUS` that nvcc compiles for; `listed` is what `nvcc --list-gpu-code` prints."""
    known = {f"{code[:-1]}.{code[-1]}" for code in re.findall(r"\bsm_(\d+)\b", listed)}
    return [gpu for gpu in GPUS if gpu in known]


def architectures(listed: str, accepted: Callable[[str], bool] = lambda gpu: True) -> str:
    """What TORCH_CUDA_ARCH_LIST is by default, such as "7.5 8.0 9.0+PTX".

    `accepted` tells whether torch knows a GPU. The newest comes as PTX too, which drivers compile
    for later ones.
    """
    return " ".join(filter(accepted, gpus(listed))) + "+PTX"
