"""The C engine: built where there is a compiler, left out where there is none."""

import sys

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "seedbed._engine",
            ["src/seedbed/_engine.c", "src/seedbed/_sums.c"],
            extra_compile_args=["/O2"] if sys.platform == "win32" else ["-O3", "-std=c11", "-ffp-contract=fast"],
            py_limited_api=True,
            optional=True,  # without it NumPy gives the same bits, slower
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
