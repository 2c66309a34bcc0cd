"""Every class of torch.nn that holds parameters or buffers, found by looking: eager against deferred."""

import inspect

import pytest
import torch
from tests.frameworks.pairs import agree
from torch import nn

import seedbed as sb

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning")  # torch's, of its layers
SEQUENCE, IMAGE = torch.ones(5, 3, 8), torch.ones(2, 4, 8, 8)


def classes():
    """All modules that torch.nn offers, quantized and private ones left out."""
    found = {n: c for n, c in vars(nn).items() if inspect.isclass(c) and issubclass(c, nn.Module)}
    return {n: c for n, c in sorted(found.items()) if c is not nn.Module and n not in ("Container", "DataParallel")}


# Name to constructor arguments, and inputs of a forward that must be finite; None where there is none to be had.
HELD = {
    "AdaptiveLogSoftmaxWithLoss": ((8, 20, [5, 10]), {}, (torch.ones(3, 8), torch.tensor([0, 7, 19]))),
    "BCELoss": ((torch.ones(3),), {}, (torch.ones(3), torch.ones(3))),
    "BCEWithLogitsLoss": ((torch.ones(3), None, None, "mean", torch.ones(3)), {}, (torch.ones(3), torch.ones(3))),
    "BatchNorm1d": ((4,), {}, (torch.ones(2, 4),)),
    "BatchNorm2d": ((4,), {}, (IMAGE,)),
    "BatchNorm3d": ((4,), {}, (IMAGE[..., None],)),
    "Bilinear": ((3, 4, 5), {}, (torch.ones(2, 3), torch.ones(2, 4))),
    "Conv1d": ((4, 6, 3), {"padding_mode": "circular", "padding": 1}, (torch.ones(2, 4, 8),)),
    "Conv2d": ((4, 6, 3), {"groups": 2}, (IMAGE,)),
    "Conv3d": ((4, 6, 3), {"bias": False}, (torch.ones(2, 4, 8, 8, 8),)),
    "ConvTranspose1d": ((4, 6, 3), {}, (torch.ones(2, 4, 8),)),
    "ConvTranspose2d": ((4, 6, 3), {"groups": 2}, (IMAGE,)),
    "ConvTranspose3d": ((4, 6, 3), {}, (torch.ones(2, 4, 8, 8, 8),)),
    "CrossEntropyLoss": ((torch.ones(3),), {}, (torch.ones(2, 3), torch.tensor([0, 2]))),
    "Embedding": ((20, 8), {"padding_idx": 3}, (torch.tensor([1, 3]),)),
    "EmbeddingBag": ((20, 8), {"mode": "sum", "padding_idx": 2}, (torch.tensor([[1, 3]]),)),
    "GRU": ((8, 6, 2), {"bidirectional": True}, (SEQUENCE,)),
    "GRUCell": ((8, 6), {}, (torch.ones(2, 8),)),
    "GroupNorm": ((2, 4), {}, (IMAGE,)),
    "InstanceNorm1d": ((4,), {"affine": True, "track_running_stats": True}, (torch.ones(2, 4, 8),)),
    "InstanceNorm2d": ((4,), {"affine": True}, (IMAGE,)),
    "InstanceNorm3d": ((4,), {"affine": True, "track_running_stats": True}, (torch.ones(2, 4, 8, 8, 8),)),
    "LSTM": ((8, 6), {"proj_size": 3}, (SEQUENCE,)),
    "LSTMCell": ((8, 6), {}, (torch.ones(2, 8),)),
    "LinearCrossEntropyLoss": ((8, 5), {}, (torch.ones(2, 8), torch.tensor([0, 4]))),
    "LayerNorm": ((8,), {}, (SEQUENCE,)),
    "Linear": ((8, 6), {}, (SEQUENCE,)),
    "MultiMarginLoss": ((1, 1.0, torch.ones(3)), {}, (torch.ones(2, 3), torch.tensor([0, 2]))),
    "MultiLabelSoftMarginLoss": ((torch.ones(3),), {}, (torch.ones(2, 3), torch.ones(2, 3))),
    "MultiheadAttention": ((8, 2), {"add_bias_kv": True}, (SEQUENCE, SEQUENCE, SEQUENCE)),
    "NLLLoss": ((torch.ones(3),), {}, (torch.ones(2, 3), torch.tensor([0, 2]))),
    "NLLLoss2d": ((torch.ones(3),), {}, None),
    "PReLU": ((3,), {}, (torch.ones(2, 3),)),
    "RMSNorm": ((8,), {}, (SEQUENCE,)),
    "RNN": ((8, 6), {}, (SEQUENCE,)),
    "RNNBase": (("LSTM", 8, 6), {}, None),
    "RNNCell": ((8, 6), {}, (torch.ones(2, 8),)),
    "RNNCellBase": ((8, 6, True, 4), {}, None),
    "SyncBatchNorm": ((4,), {}, None),
    "Transformer": ((8, 2, 1, 1, 16), {}, (SEQUENCE, SEQUENCE)),
    "TransformerDecoder": (lambda: (nn.TransformerDecoderLayer(8, 2, 16), 2), {}, (SEQUENCE, SEQUENCE)),
    "TransformerDecoderLayer": ((8, 2, 16), {}, (SEQUENCE, SEQUENCE)),
    "TransformerEncoder": (
        lambda: (nn.TransformerEncoderLayer(8, 2, 16), 2),
        {"enable_nested_tensor": False},
        (SEQUENCE,),
    ),
    "TransformerEncoderLayer": ((8, 2, 16), {}, (SEQUENCE,)),
}
MORE = {
    "MultiheadAttention of other sizes": (nn.MultiheadAttention, (8, 2), {"kdim": 4, "vdim": 6, "bias": False}),
    "BatchNorm1d without statistics": (nn.BatchNorm1d, (4,), {"track_running_stats": False, "affine": False}),
    "Linear of bfloat16": (nn.Linear, (30, 40), {"dtype": torch.bfloat16}),
    "Linear of float64": (nn.Linear, (30, 40), {"dtype": torch.float64, "bias": False}),
    "Conv2d of channels last": (nn.Conv2d, (3, 8, 3), {"dtype": torch.float16}),
    "ParameterList": (lambda: nn.ParameterList([torch.ones(3), nn.Parameter(torch.randn(9))]), (), {}),
    "ParameterDict": (lambda: nn.ParameterDict({"a": torch.zeros(3), "b": nn.Parameter(torch.randn(9))}), (), {}),
}
LAZY = {n for n in classes() if n.startswith("Lazy")}
# Those that hold none, each with arguments it is built with.
BARE = {
    "AdaptiveAvgPool1d": (2,), "AdaptiveAvgPool2d": (2,), "AdaptiveAvgPool3d": (2,), "AdaptiveMaxPool1d": (2,),
    "AdaptiveMaxPool2d": (2,), "AdaptiveMaxPool3d": (2,), "AvgPool1d": (2,), "AvgPool2d": (2,), "AvgPool3d": (2,),
    "CircularPad1d": (1,), "CircularPad2d": (1,), "CircularPad3d": (1,), "ConstantPad1d": (1, 0.0),
    "ConstantPad2d": (1, 0.0), "ConstantPad3d": (1, 0.0), "Fold": (2, 1), "FractionalMaxPool2d": (2, 1),
    "FractionalMaxPool3d": (2, 1), "LPPool1d": (2, 2), "LPPool2d": (2, 2), "LPPool3d": (2, 2), "LocalResponseNorm": (2,),
    "MaxPool1d": (2,), "MaxPool2d": (2,), "MaxPool3d": (2,), "MaxUnpool1d": (2,), "MaxUnpool2d": (2,),
    "MaxUnpool3d": (2,), "PixelShuffle": (2,), "PixelUnshuffle": (2,), "ReflectionPad1d": (1,),
    "ReflectionPad2d": (1,), "ReflectionPad3d": (1,), "ReplicationPad1d": (1,), "ReplicationPad2d": (1,),
    "ReplicationPad3d": (1,), "Threshold": (0.1, 20), "Unflatten": (1, (2, 2)), "Unfold": (2,), "ZeroPad1d": (1,),
    "ZeroPad2d": (1,), "ZeroPad3d": (1,), "CrossMapLRN2d": (2,), "ChannelShuffle": (2,),
}  # fmt: skip


KNOWN = {name: entry for name, entry in HELD.items() if name in classes()}
"""Earlier releases of PyTorch lack some."""


@pytest.mark.parametrize("name", sorted({*classes()} - {*HELD} - LAZY))
def test_a_layer_without_an_entry_holds_nothing(name):
    made = classes()[name](*BARE.get(name, ()))
    assert not [*made.parameters(), *made.buffers()], "give it an entry in HELD"


@pytest.mark.parametrize("name", KNOWN)
def test_a_layer_is_built_as_pytorch_builds_it(name):
    arguments, keywords, inputs = HELD[name]
    given = arguments if callable(arguments) else lambda: arguments
    model = agree(lambda: classes()[name](*given(), **keywords))
    assert [*model.parameters(), *model.buffers()], "it holds nothing: no entry is needed"
    out = model(*inputs) if inputs else torch.ones(1)
    assert all(t.isfinite().all() for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))


@pytest.mark.parametrize("name", MORE)
def test_layers_with_other_arguments(name):
    make, arguments, keywords = MORE[name]
    agree(lambda: make(*arguments, **keywords))


@pytest.mark.parametrize("name", sorted(LAZY))
def test_lazy_layers_settle_and_start(name):
    inputs = {"1d": torch.ones(2, 4, 8), "2d": IMAGE, "3d": torch.ones(2, 4, 8, 8, 8), "ar": torch.ones(2, 4)}[
        name[-2:]
    ]
    arguments = () if "Norm" in name else (6,) if name == "LazyLinear" else (6, 3)
    with sb.deferred():
        model = nn.Sequential(classes()[name](*arguments))
    sb.initialize(model, inputs)
    eager = sb.initialize(nn.Sequential(classes()[name](*arguments)), inputs)
    for (path, ours), (other, theirs) in zip(model.named_parameters(), eager.named_parameters(), strict=True):
        assert path == other
        assert torch.equal(ours, theirs), path
    assert model(inputs).isfinite().all()
