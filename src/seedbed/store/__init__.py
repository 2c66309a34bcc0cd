"""Stage 6b: to disk. A plan becomes safetensors files, one block in memory at a time.

Files are written aside, synced, and renamed; the index comes last, so that a folder with an index
is whole. The format is that of https://github.com/huggingface/safetensors; several files follow the
naming of its ecosystem, `model-00001-of-00002.safetensors` and `model.safetensors.index.json`.
"""

from seedbed.store.fitting import fitted
from seedbed.store.load import Tensor, load
from seedbed.store.names import DTYPES, NAMES
from seedbed.store.save import save

__all__ = ["DTYPES", "NAMES", "Tensor", "fitted", "load", "save"]
