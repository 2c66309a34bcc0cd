"""Tests that need MXNet, in an environment of its own: `make test` sets it up and runs them there."""

import os
import warnings

os.environ.setdefault("DMLC_LOG_STACK_TRACE_DEPTH", "0")  # no addresses in MXNet's messages
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it asks for names that NumPy was about to drop
    import mxnet  # noqa: F401
