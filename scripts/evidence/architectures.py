"""Architectures of transformers built deferred and by PyTorch, compared; writes docs/evidence/architectures.md.

    python scripts/evidence/architectures.py

Values are compared at small sizes, as the tests do it. Time and memory are those of the library's default, full-size
configurations, deferred and planned, in this process, after a small one of the same architecture.
"""

import logging
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import transformers
from tests.frameworks.pairs import agree, deferred
from tests.frameworks.zoo import ZOO

import seedbed as sb
from seedbed.initializers import Chain, Recorded

SECTION = "\n## Every model class"
PAGE = Path(__file__).parents[2] / "docs" / "evidence" / "architectures.md"
FULL = (
    *("GPT2LMHeadModel", "LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "Qwen2ForCausalLM"),
    *("GemmaForCausalLM", "PhiForCausalLM", "FalconForCausalLM", "BertModel", "RobertaModel", "DebertaV2Model"),
    *("T5ForConditionalGeneration", "BartForConditionalGeneration", "ViTModel", "SwinModel", "ConvNextModel"),
    *("CLIPModel", "SiglipModel", "WhisperForConditionalGeneration", "Wav2Vec2Model", "MambaForCausalLM"),
    *("RwkvForCausalLM", "SamModel", "BlipModel"),
)
HEAD = f"""# Architectures, built deferred

Made by `python scripts/evidence/architectures.py` with transformers {transformers.__version__}, which writes this page anew,
up to the section on every model class.

*Recognized*: tensors whose start is one of seedbed's initializers. *Chains*: those whose operations treat each element
by itself, so that any part is computed alone. *Computed*: those whose operations are carried out again on the whole.
*Agree*: paths, shapes, dtypes, ties and memory are those of PyTorch's model; bits, where nothing random went in;
elsewhere the distributions, by tests that fail by chance once in 10^9.
"""


def resident() -> float:
    """Megabytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def counted(plan: sb.Plan) -> tuple[int, int, int, int]:
    """How many tensors are recognized, chains, computed, copies."""
    kinds = Counter(type(e.start) if isinstance(e.start, Recorded) else None for e in plan)
    return kinds[None], kinds[Chain], kinds[Recorded], sum(bool(e.spec.copied) for e in plan)


def small(name: str) -> str:
    """One row: an architecture at a small size."""
    model = deferred(ZOO[name])
    row = counted(sb.plan(model))
    try:
        agree(ZOO[name])
        verdict = "yes"
    except AssertionError as error:
        verdict = f"no: {str(error).splitlines()[0][:60]}"
    return f"| {name} | {' | '.join(map(str, row))} | {verdict} |"


def full(name: str) -> str:
    """One row: a default configuration, built and planned."""
    make = getattr(transformers, name)
    before, begin = resident(), time.perf_counter()
    with sb.deferred():
        model = make(make.config_class())
    built = time.perf_counter()
    plan = sb.plan(model)
    planned, after = time.perf_counter(), resident()
    values = sum(e.spec.count for e in plan)
    row = (
        f"{values / 1e6:,.0f}",
        *counted(plan),
        f"{built - begin:.2f}",
        f"{planned - built:.2f}",
        f"{after - before:.0f}",
    )
    return f"| {name} | {' | '.join(map(str, row))} |"


def main() -> None:
    """Both tables."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    lines = [
        HEAD,
        "| architecture, small | recognized | chains | computed | copies | agree |",
        "|---|---|---|---|---|---|",
    ]
    lines += [small(name) for name in ZOO]
    heads = "values, millions | recognized | chains | computed | copies | built, s | planned, s | memory grew, MB"
    lines += ["", f"| architecture, full size | {heads} |", "|---|---|---|---|---|---|---|---|---|"]
    lines += [full(name) for name in FULL]
    _, section, others = PAGE.read_text().partition(SECTION)  # every.py and strangers.py write that
    PAGE.write_text("\n".join(lines) + "\n" + section + others)


if __name__ == "__main__":
    main()
