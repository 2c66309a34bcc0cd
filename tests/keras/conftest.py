"""Keras takes one backend in a process: KERAS_BACKEND says which, JAX where it says nothing."""

import importlib.util
import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if importlib.util.find_spec("keras") is None:
    collect_ignore_glob = ["*.py"]
