"""Architectures of transformers, small: name to a function that builds one, and a forward for those that read text."""

import functools

import torch
import transformers

transformers.logging.set_verbosity_error()

WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {**WIDE, "vocab_size": 120, "max_position_embeddings": 64}
GROUPED = {**TEXT, "num_key_value_heads": 2, "pad_token_id": 0}
BOTH = {
    "vocab_size": 120, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
}  # fmt: skip
PAIR = {**BOTH, "max_position_embeddings": 64}
IMAGE = {**WIDE, "image_size": 32, "patch_size": 8}
SPEECH = {
    **WIDE, "conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
SHORT = {**WIDE, "vocab_size": 120, "max_position_embeddings": 20}
STAGES = {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
HEADS = {"head_dim": 8}
SPLIT = {"embedding_size": 32}
# Class, its configuration, and the configuration's arguments.
DECODERS = [
    ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    ("MistralForCausalLM", "MistralConfig", GROUPED),
    ("Qwen2ForCausalLM", "Qwen2Config", GROUPED),
    ("Qwen3ForCausalLM", "Qwen3Config", GROUPED | HEADS),
    ("GemmaForCausalLM", "GemmaConfig", GROUPED | HEADS),
    ("Gemma2ForCausalLM", "Gemma2Config", GROUPED | HEADS),
    ("PhiForCausalLM", "PhiConfig", GROUPED),
    ("Phi3ForCausalLM", "Phi3Config", GROUPED),
    ("OlmoForCausalLM", "OlmoConfig", GROUPED),
    ("StableLmForCausalLM", "StableLmConfig", GROUPED),
    ("Starcoder2ForCausalLM", "Starcoder2Config", GROUPED),
    ("CohereForCausalLM", "CohereConfig", GROUPED),
    ("MixtralForCausalLM", "MixtralConfig", GROUPED | {"num_local_experts": 4}),
    ("GPTNeoXForCausalLM", "GPTNeoXConfig", TEXT),
    ("FalconForCausalLM", "FalconConfig", {**WIDE, "vocab_size": 120}),
    ("BloomForCausalLM", "BloomConfig", {"vocab_size": 120, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    ("GPT2LMHeadModel", "GPT2Config", {"vocab_size": 120, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    (
        "GPTJForCausalLM",
        "GPTJConfig",
        {"vocab_size": 120, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4},
    ),
    ("OPTForCausalLM", "OPTConfig", {**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    (
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    ),
]
ENCODERS = [
    ("BertModel", "BertConfig", TEXT),
    ("RobertaModel", "RobertaConfig", TEXT),
    ("ElectraModel", "ElectraConfig", TEXT | SPLIT),
    ("AlbertModel", "AlbertConfig", TEXT | SPLIT),
    ("DebertaV2Model", "DebertaV2Config", TEXT),
    ("DebertaModel", "DebertaConfig", TEXT),
    ("MPNetModel", "MPNetConfig", TEXT),
    ("RoFormerModel", "RoFormerConfig", TEXT | SPLIT),
    ("MegatronBertModel", "MegatronBertConfig", TEXT),
    ("ConvBertModel", "ConvBertConfig", TEXT | SPLIT),
    ("FNetModel", "FNetConfig", TEXT),
    (
        "DistilBertModel",
        "DistilBertConfig",
        {"vocab_size": 120, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "sinusoidal_pos_embds": True},
    ),
    ("XLNetModel", "XLNetConfig", {"vocab_size": 120, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
]
OTHERS = [
    ("T5Model", "T5Config", {"vocab_size": 120, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}),
    ("BartModel", "BartConfig", PAIR),
    ("MarianModel", "MarianConfig", {**PAIR, "pad_token_id": 1, "decoder_start_token_id": 1}),
    ("PegasusModel", "PegasusConfig", PAIR),
    ("M2M100Model", "M2M100Config", PAIR),
    (
        "WhisperModel",
        "WhisperConfig",
        {**BOTH, "max_source_positions": 30, "max_target_positions": 20, "num_mel_bins": 8, "pad_token_id": 0}
        | {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
    ),
    ("ViTModel", "ViTConfig", IMAGE),
    ("DeiTModel", "DeiTConfig", IMAGE),
    ("Dinov2Model", "Dinov2Config", IMAGE),
    ("BeitModel", "BeitConfig", IMAGE),
    ("ViTMAEModel", "ViTMAEConfig", IMAGE),
    ("SwinModel", "SwinConfig", SWIN),
    ("Swinv2Model", "Swinv2Config", SWIN),
    ("ConvNextModel", "ConvNextConfig", STAGES),
    ("ConvNextV2Model", "ConvNextV2Config", STAGES),
    ("ResNetModel", "ResNetConfig", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}),
    ("SegformerModel", "SegformerConfig", STAGES | {"num_attention_heads": [1, 2, 2, 2]}),
    ("CLIPModel", "CLIPConfig", {"text_config": SHORT, "vision_config": IMAGE, "projection_dim": 16}),
    ("SiglipModel", "SiglipConfig", {"text_config": SHORT, "vision_config": IMAGE}),
    ("Wav2Vec2Model", "Wav2Vec2Config", SPEECH),
    ("WavLMModel", "WavLMConfig", SPEECH),
    ("RwkvForCausalLM", "RwkvConfig", {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2}),
    (
        "PerceiverModel",
        "PerceiverConfig",
        {"num_latents": 8, "d_latents": 32, "d_model": 16, "num_blocks": 1, "num_self_attends_per_block": 1}
        | {"num_self_attention_heads": 2, "num_cross_attention_heads": 2},
    ),
]


def build(model, config, arguments):
    """One of transformers, by its names."""
    return getattr(transformers, model)(getattr(transformers, config)(**arguments))


ZOO = {
    row[0]: functools.partial(build, *row) for row in [*DECODERS, *ENCODERS, *OTHERS] if hasattr(transformers, row[0])
}
READERS = [row[0] for row in [*DECODERS, *ENCODERS] if row[0] in ZOO]


def read(model):
    """What a text model says to a few tokens."""
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(1, 9)[None])[0]
