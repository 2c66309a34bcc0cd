"""Models of other people's libraries, built deferred and by PyTorch, compared; a section of docs/evidence/architectures.md.

    python scripts/evidence/strangers.py [LIBRARY ...]

Libraries that are not installed are left out of the table. Nothing is downloaded: all models start at random.
"""

# ruff: noqa: D103 -- each function is named for its library

import importlib
import importlib.metadata
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from tests.frameworks.pairs import agree
from torch import nn

PAGE = Path(__file__).parents[2] / "docs" / "evidence" / "architectures.md"
SECTION = "\n## Libraries that nobody here has written for\n"
HEAD = """
Made by `python scripts/evidence/strangers.py`, which writes this section anew, with the libraries that were installed.
Compared as above; *forward* counts the models that were called with an input afterwards, and gave finite numbers.

| library | models | agree | forward | what does not |
|---|---|---|---|---|
"""
Case = tuple[str, Callable[[], nn.Module], tuple[Any, ...]]
IDS, IMAGE = torch.arange(16)[None], torch.ones(1, 3, 64, 64) / 2


def of(module: str, name: str, /, *args: Any, feed: tuple[Any, ...] = (), **kwargs: Any) -> Case:
    """A class by its name, its arguments, and an input for its forward."""
    return name, lambda: getattr(importlib.import_module(module), name)(*args, **kwargs), feed


def vit_pytorch() -> Iterator[Case]:
    size = {"image_size": 64, "patch_size": 16, "num_classes": 5, "dim": 32, "depth": 2, "heads": 2, "mlp_dim": 48}
    for module, name in [
        *[("vit", "ViT"), ("simple_vit", "SimpleViT"), ("deepvit", "DeepViT"), ("vit_for_small_dataset", "ViT")],
        *[("parallel_vit", "ViT"), ("vit_with_patch_dropout", "ViT"), ("learnable_memory_vit", "ViT")],
        *[("normalized_vit", "nViT"), ("rvt", "RvT"), ("local_vit", "LocalViT")],
    ]:
        yield of(f"vit_pytorch.{module}", name, **size, feed=(IMAGE,))
    yield of("vit_pytorch.xcit", "XCiT", **size, cls_depth=1, feed=(IMAGE,))


def x_transformers() -> Iterator[Case]:
    library = importlib.import_module("x_transformers")
    for option in (
        *("rotary_pos_emb", "alibi_pos_bias", "rel_pos_bias", "dynamic_pos_bias", "use_rmsnorm", "macaron"),
        *(
            "sandwich_norm",
            "attn_qk_norm",
            "attn_pre_talking_heads",
            "gate_residual",
            "scale_residual",
            "use_layerscale",
        ),
    ):

        def build(option: str = option) -> nn.Module:
            layers = library.Decoder(dim=32, depth=2, heads=2, **{option: True})
            return library.TransformerWrapper(num_tokens=50, max_seq_len=32, attn_layers=layers)

        yield option, build, (IDS,)


def timm() -> Iterator[Case]:
    library = importlib.import_module("timm")
    for name in (
        *("vit_tiny_patch16_224", "convnext_atto", "mobilevit_xxs", "efficientvit_b0", "ghostnet_050", "pvt_v2_b0"),
        *("xcit_nano_12_p16_224", "levit_128s", "tinynet_e", "regnetx_002", "edgenext_xx_small", "mambaout_femto"),
    ):
        yield name, lambda name=name: library.create_model(name, num_classes=5), (torch.ones(1, 3, 224, 224) / 2,)


def torchvision() -> Iterator[Case]:
    library = importlib.import_module("torchvision.models")
    for name in ("mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_0", "mnasnet0_5"):
        yield name, lambda name=name: library.get_model(name, weights=None, num_classes=5), (IMAGE,)


def diffusers() -> Iterator[Case]:
    blocks = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
    small = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "in_channels": 4, "sample_size": 8}
    crossed = {"cross_attention_dim": 16, "attention_head_dim": 4, **blocks}
    noise = torch.ones(1, 4, 16, 16) / 2
    yield of(
        "diffusers", "UNet2DModel", sample_size=16, attention_head_dim=8, in_channels=4, **blocks,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), feed=(noise, 5),
    )  # fmt: skip
    yield of(
        "diffusers", "UNet2DConditionModel", sample_size=16, **crossed, feed=(noise, 5, torch.ones(1, 3, 16)),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    yield of("diffusers", "AutoencoderKL", block_out_channels=(16,), norm_num_groups=8, feed=(noise[:, :3],))
    yield of("diffusers", "VQModel", block_out_channels=(16,), norm_num_groups=8, num_vq_embeddings=20)
    yield of("diffusers", "DiTTransformer2DModel", norm_num_groups=8, **small)
    yield of(
        "diffusers", "PixArtTransformer2DModel", caption_channels=8, cross_attention_dim=16, norm_num_groups=8, **small
    )
    yield of(
        "diffusers", "FluxTransformer2DModel", in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    yield of(
        "diffusers", "SD3Transformer2DModel", sample_size=8, patch_size=1, in_channels=4, num_layers=1,
        attention_head_dim=8, num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32,
        pooled_projection_dim=64, out_channels=4,
    )  # fmt: skip
    yield of(
        "diffusers", "WanTransformer3DModel", num_attention_heads=2, attention_head_dim=12, in_channels=4,
        out_channels=4, text_dim=16, freq_dim=32, ffn_dim=32, num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip


def peft() -> Iterator[Case]:
    library, models = importlib.import_module("peft"), importlib.import_module("transformers")
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    for name, options in {
        "LoraConfig": {"r": 4}, "VeraConfig": {"r": 4}, "IA3Config": {"feedforward_modules": []}, "LoHaConfig": {"r": 4},
        "LoKrConfig": {"r": 4}, "BOFTConfig": {"boft_block_size": 4}, "FourierFTConfig": {"n_frequency": 10},
        "RandLoraConfig": {"r": 4}, "ShiraConfig": {"r": 4, "random_seed": 1}, "OFTConfig": {"r": 0, "oft_block_size": 4},
    }.items():  # fmt: skip

        def build(name: str = name, options: dict[str, Any] = options) -> nn.Module:
            base = models.LlamaForCausalLM(models.LlamaConfig(vocab_size=50, num_key_value_heads=2, **size))
            return library.get_peft_model(base, getattr(library, name)(target_modules=["q_proj", "v_proj"], **options))

        yield name, build, (IDS,)


def monai() -> Iterator[Case]:
    nets, image = "monai.networks.nets", torch.ones(1, 1, 32, 32) / 2
    yield of(nets, "UNet", 2, 1, 2, (4, 8, 16), (2, 2), num_res_units=1, feed=(image,))
    yield of(nets, "BasicUNet", 2, 1, 2, (4, 4, 8, 8, 8, 4), feed=(image,))
    yield of(nets, "SegResNet", 2, init_filters=8, feed=(image,))
    yield of(nets, "AttentionUnet", 2, 1, 2, (4, 8, 16), (2, 2), feed=(image,))
    yield of(nets, "SwinUNETR", in_channels=1, out_channels=2, feature_size=12, spatial_dims=2)
    yield of(
        nets,
        "ViT",
        1,
        (32, 32),
        (8, 8),
        hidden_size=24,
        mlp_dim=32,
        num_layers=2,
        num_heads=2,
        spatial_dims=2,
        feed=(image,),
    )
    yield of(nets, "VarAutoEncoder", 2, (1, 32, 32), 1, 4, (4, 8), (2, 2))


def torch_geometric() -> Iterator[Case]:
    for name, args in {
        "GCNConv": (8, 4), "GATConv": (8, 4, 2), "SAGEConv": (8, 4), "ChebConv": (8, 4, 3), "ARMAConv": (8, 4),
        "TransformerConv": (8, 4), "RGCNConv": (8, 4, 3, 2), "FAConv": (8,), "GCN2Conv": (8, 0.5), "GIN": (8, 8, 2),
        "SchNet": (16, 16, 2, 10), "LightGCN": (10, 8, 2), "MLP": ([8, 8, 4],), "RotatE": (5, 3, 8), "GraphUNet": (8, 8, 4, 2),
    }.items():  # fmt: skip
        yield of("torch_geometric.nn", name, *args)


def open_clip() -> Iterator[Case]:
    library = importlib.import_module("open_clip.model")
    text = library.CLIPTextCfg(context_length=16, vocab_size=50, width=64, heads=2, layers=2)
    seen = library.CLIPVisionCfg(layers=2, width=64, image_size=32, patch_size=8, head_width=32)
    yield of("open_clip.model", "CLIP", 32, seen, text)
    yield of("open_clip.model", "CLIP", 32, library.CLIPVisionCfg(layers=(1, 1, 1, 1), width=16, image_size=64), text)
    yield of("open_clip.model", "CustomTextCLIP", 32, seen, text, init_logit_bias=-10)


def e3nn() -> Iterator[Case]:
    yield of("e3nn.o3", "Linear", "4x0e+2x1o", "3x0e+1x1o")
    yield of("e3nn.o3", "FullyConnectedTensorProduct", "2x0e+1x1o", "1x0e+1x1o", "2x0e+1x1o")
    yield of("e3nn.nn", "FullyConnectedNet", [4, 8, 2], torch.relu)
    yield of("e3nn.nn", "Gate", "2x0e", [torch.relu], "1x0e", [torch.sigmoid], "1x1o")
    yield of("e3nn.nn", "BatchNorm", "2x0e+1x1o")
    yield of("e3nn.o3", "ToS2Grid", 2, 6)


def vector_quantize_pytorch() -> Iterator[Case]:
    library, x = "vector_quantize_pytorch", torch.ones(1, 16, 32) / 2
    yield of(library, "VectorQuantize", dim=32, codebook_size=20, feed=(x,))
    yield of(
        library,
        "VectorQuantize",
        dim=32,
        codebook_size=20,
        use_cosine_sim=True,
        heads=2,
        separate_codebook_per_head=True,
    )
    yield of(library, "ResidualVQ", dim=32, num_quantizers=3, codebook_size=20, shared_codebook=True, feed=(x,))
    yield of(library, "FSQ", [8, 5, 5, 5], feed=(x[..., :4],))
    yield of(library, "RandomProjectionQuantizer", dim=32, num_codebooks=2, codebook_dim=8, codebook_size=20, feed=(x,))
    yield of(library, "SimVQ", dim=32, codebook_size=20, feed=(x,))


def several() -> Iterator[Case]:
    yield of("performer_pytorch", "PerformerLM", num_tokens=50, max_seq_len=32, dim=32, depth=2, heads=2, feed=(IDS,))
    yield of(
        "denoising_diffusion_pytorch", "Unet", dim=16, dim_mults=(1, 2), feed=(IMAGE[..., :16, :16], torch.tensor([3]))
    )
    yield of("rotary_embedding_torch", "RotaryEmbedding", dim=16, use_xpos=True)
    yield of("segmentation_models_pytorch", "Unet", "resnet18", encoder_weights=None, feed=(IMAGE,))
    yield of("gpytorch.kernels", "SpectralMixtureKernel", 3)
    yield of("neuralop.models", "FNO", (4, 4), 1, 1, 8, n_layers=2, feed=(torch.ones(1, 1, 16, 16),))
    yield of(
        "einops.layers.torch",
        "EinMix",
        "b c -> b d",
        weight_shape="c d",
        bias_shape="d",
        c=8,
        d=4,
        feed=(torch.ones(3, 8),),
    )
    yield of("snntorch", "RLeaky", beta=0.9, linear_features=4)
    yield of("perceiver_pytorch", "Perceiver", num_freq_bands=4, depth=2, max_freq=10, num_latents=8, latent_dim=16)

    def orthogonal() -> nn.Module:
        layer = nn.Linear(6, 6)
        importlib.import_module("geotorch").orthogonal(layer, "weight")
        return layer

    yield "geotorch", orthogonal, ()


LIBRARIES = (
    *(vit_pytorch, x_transformers, timm, torchvision, diffusers, peft, monai, torch_geometric, open_clip, e3nn),
    *(vector_quantize_pytorch, several),
)


def finite(out: Any) -> bool:
    """Whether all numbers in what a forward returns are."""
    if isinstance(out, torch.Tensor):
        return bool(torch.isfinite(torch.view_as_real(out) if out.is_complex() else out.double()).all())
    values = out.values() if isinstance(out, dict) else out if isinstance(out, (list, tuple)) else []
    return all(map(finite, values))


def row(cases: Callable[[], Iterator[Case]]) -> str:
    """One library's line of the table; empty where it is not installed."""
    tried = agreed = called = 0
    failures = []
    try:
        for name, make, feed in cases():
            try:
                eager = make().eval()
                with torch.no_grad():
                    eager(*feed) if feed else None
            except Exception as error:  # not installed, or of another version
                print(f"left out: {name}: {error}"[:200], file=sys.stderr)
                continue
            tried += 1
            try:
                model = agree(make)
                agreed += 1
                if feed:
                    with torch.no_grad():
                        called += finite(model.eval()(*feed))
            except Exception as error:
                failures.append(f"{name}: {str(error).splitlines()[0][:110] if str(error) else type(error).__name__}")
    except ImportError:
        return ""
    if not tried:
        return ""
    title = "several" if cases is several else cases.__name__
    known = {"open_clip": "open_clip_torch"}.get(title, title)
    version = "" if cases is several else f" {importlib.metadata.version(known)}"
    return f"| {title}{version} | {tried} | {agreed} | {called} | {'; '.join(failures)} |"


def main() -> None:
    """The section, for the libraries that are named, or for all."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    names = sys.argv[1:] or [cases.__name__ for cases in LIBRARIES]
    rows = []
    for cases in LIBRARIES:
        if cases.__name__ in names:
            rows += [line for line in [row(cases)] if line]
            print(*rows[-1:], flush=True)
    if not sys.argv[1:]:
        first, _, _ = PAGE.read_text().partition(SECTION)
        PAGE.write_text(first + SECTION + HEAD + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
