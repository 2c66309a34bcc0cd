"""Small configurations of transformers, made from the defaults: sizes go down together, so that they still fit."""

import copy
import re
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedConfig

WIDTH = re.compile(
    r"(hidden|model|embed\w*|inner|ffn|ff|ff[nw]_hidden|intermediate|filter|feature|proj\w*|head|state|conv|mlp|bottleneck"
    r"|expert\w*|output|input|fusion|decoder|encoder|neck|latents?|kv|vision|text|audio|cross|channel\w*|attention|qk\w*)"
    r"\w*(size|sizes|dim|dims|channels?|width|widths|rank)$"
    r"|^(d_\w+|n_embd|n_inner|dim|dims|\w*width|\w*channels?|\w+_d_\w+|\w*_(dim|dims|rank|d_model|hidden_size|ffn_dim)|embed_dims?)$"
)
NOT_WIDTH = re.compile(
    r"patch|image|kernel|window|vocab|stride|in_channels|num_channels|input_channels|max_|block|scale|per_"
)
DEPTH = re.compile(
    r"^(?!.*(group|index|indices|feature|used|skip|every|first|last|stage|dense|shared|per_|drop|start|stop|freq))"
    r"(num|n|\w+)_?\w*(layers|layer|blocks|_depth)$|^depths?$|^num_hidden_layers$"
)
VOCAB = re.compile(r"vocab_size|codebook_size$|_vocab$|hash_\w*vocab$")
HEADS = re.compile(r"(^|_)(num|n)_?\w*heads?$|^n_head$|_num_heads$|heads$")
SHARED = {"num_kv_shared_layers": 0}
EXPERTS = re.compile(r"^(num|n)_\w*experts?$|^num_local_experts$|^moe_num_experts$")
SMALL_VOCAB = 512
STRATEGIES: list[dict[str, Any]] = [
    *({"width": f, "depth": 2, "few": True} for f in (32, 16, 8)),
    *({"width": f, "depth": 2, "few": True, "heads": True} for f in (16, 8, 4)),
    *({"width": f, "depth": 2, "few": True} for f in (4, 2, 1)),
    {"width": 16, "depth": 2, "few": True, "lists": True},
    {"width": 8, "depth": None, "few": True},
    {"width": 1, "depth": None, "few": False},
]
ROPE = {"rope_type": "default", "rope_theta": 1e4}
# What the names do not tell: arguments that have no default, or whose sizes fit in other ways.
OVERRIDES: dict[str, dict[str, Any]] = {
    "AutoformerConfig": {"prediction_length": 8},
    "BeitConfig": {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]},
    "ChameleonConfig": {"vocabulary_map": {"<image>": 3, "IMGIMGAZ": 4}},
    "CohereCompassTextConfig": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "Data2VecVisionConfig": {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]},
    "DbrxAttentionConfig": {"rope_theta": 1e4},
    "DeepseekOcr2TextConfig": {"num_hidden_layers": 2, "mlp_layer_types": ["dense", "sparse"]},
    "DiffusionGemmaTextConfig": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32},
    "Dots1Config": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "EsmConfig": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "HieraConfig": {"decoder_hidden_size": 32, "decoder_depth": 2, "decoder_num_heads": 2},
    **{f"HunYuan{n}Config": {"head_dim": 16} for n in ("DenseV1", "MoEV1", "VLText")},
    "InformerConfig": {"prediction_length": 8},
    "Lfm2MoeConfig": {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "MimiConfig": {"upsample_groups": 8},
    "MinistralConfig": {"head_dim": 16},
    "MuseSparkConfig": {"num_hidden_layers": 4},
    "NemotronConfig": {"num_key_value_heads": 2},
    "Qwen3OmniMoeTalkerTextConfig": {"shared_expert_intermediate_size": 32},
    "T5Gemma2DecoderConfig": {"dropout_rate": 0.0},
    "T5Gemma2TextConfig": {"dropout_rate": 0.0},
    "TimeSeriesTransformerConfig": {"prediction_length": 8},
    "TimmBackboneConfig": {"backbone": "resnet18"},
}


def divided(value: Any, by: int) -> Any:
    """A size, smaller if it can be: each of a list."""
    if isinstance(value, (list, tuple)):
        return type(value)(divided(v, by) for v in value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 2 * by or value % by or value < 24:
        return value
    return value // by


def least(value: Any, most: int) -> Any:
    """A count, at most so many: each of a list."""
    if isinstance(value, (list, tuple)):
        return type(value)(least(v, most) for v in value)
    return min(value, most) if isinstance(value, int) and not isinstance(value, bool) else value


def picked(values: list[Any], count: int) -> list[Any]:
    """Some of a list with one of each kind first, in their order."""
    firsts = [n for n, v in enumerate(values) if v not in values[:n]]
    rest = [n for n in range(len(values)) if n not in firsts]
    return [values[n] for n in sorted((firsts + rest)[:count])]


def changes(
    config: PreTrainedConfig, width: int, depth: int | None, *, few: bool, heads: bool = False, lists: bool = False
) -> dict[str, Any]:
    """The arguments that make a configuration small."""
    held = {k: v for k, v in vars(config).items() if not k.startswith("_") and k != "transformers_version"}
    layers = next((held[k] for k in ("num_hidden_layers", "n_layer", "num_layers") if isinstance(held.get(k), int)), 0)
    kinds = [len({str(v) for v in vs}) for vs in held.values() if isinstance(vs, list) and len(vs) == layers > 1]
    depth = max([depth, *kinds]) if depth else None
    made: dict[str, Any] = {}
    for name, value in held.items():
        if isinstance(value, PreTrainedConfig):
            made[name] = shrunk(value, width, depth, few=few, heads=heads, lists=lists)
        elif depth and isinstance(value, list) and len(value) == layers > depth:
            made[name] = picked(value, depth)
        elif heads and HEADS.search(name):
            made[name] = value // width if isinstance(value, int) and value >= width else value
        elif heads and re.search("head_dim|rot|rope|key_size|d_kv", name):
            continue
        elif depth and name in SHARED:
            made[name] = SHARED[name]
        elif depth and DEPTH.search(name):
            made[name] = least(value, depth)
        elif VOCAB.search(name) and few:
            made[name] = least(value, SMALL_VOCAB)
        elif EXPERTS.search(name) and few:
            made[name] = least(value, 4)
        elif few and re.search(r"experts_per_tok$|^(moe_)?top_?k(_experts)?$", name):
            made[name] = least(value, 2)
        elif name.endswith(("_token_id", "_token_index", "_token_ids")) and few and isinstance(value, int):
            made[name] = value % (SMALL_VOCAB - 8) if value >= SMALL_VOCAB else value
        elif WIDTH.search(name) and not NOT_WIDTH.search(name):
            made[name] = divided(value, width)
        elif "position" in name and few and isinstance(value, int) and not isinstance(value, bool):
            made[name] = least(value, 2048)
    if lists:  # as a file has them, and some models take nothing else
        made = {
            k: list(v) if isinstance(v, tuple) else v for k, v in (held | made).items() if k in made or type(v) is tuple
        }
    return made | OVERRIDES.get(type(config).__name__, {})


def shrunk(
    config: PreTrainedConfig, width: int, depth: int | None, *, few: bool, heads: bool = False, lists: bool = False
) -> PreTrainedConfig:
    """A configuration like another, small."""
    made = changes(config, width, depth, few=few, heads=heads, lists=lists)
    kept = {
        k: copy.deepcopy(v) for k, v in config.to_diff_dict().items() if k not in ("transformers_version", "model_type")
    }
    fields = {f for c in type(config).__mro__ for f in getattr(c, "__annotations__", {})}
    kept = {k: v for k, v in kept.items() if k in fields}
    return type(config)(**{k: v for k, v in (kept | made).items() if k != "model_type"})


def candidates(made: type[PreTrainedConfig]) -> Iterator[tuple[str, PreTrainedConfig]]:
    """Configurations of a class, small ones first."""
    try:
        whole = made(**OVERRIDES.get(made.__name__, {}))
    except Exception as error:
        yield f"{type(error).__name__}: {str(error)[:200]}", None
        return
    for strategy in STRATEGIES:
        try:
            yield str(strategy), shrunk(whole, **strategy)
        except Exception as error:
            yield f"{strategy}: {type(error).__name__}: {str(error)[:200]}", None
    yield "default", whole
