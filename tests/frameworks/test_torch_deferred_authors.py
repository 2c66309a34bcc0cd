"""Models as people write them: the starts of well-known ones, each in the words of its kind."""

import copy
import math

import numpy as np
import pytest
import torch
from tests.frameworks.pairs import agree, net
from torch import nn
from torch.nn import functional as F
from torch.nn import init

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*", "ignore:.*deprecated.*", "ignore:.*no-op.*")
CASES = {}


def case(build):
    CASES[build.__name__] = net(build)
    return build


@case
def small_language_model(self):
    width, depth = 32, 2

    def block():
        made = nn.ModuleDict(
            {"ln": nn.LayerNorm(width), "c_attn": nn.Linear(width, 96), "c_proj": nn.Linear(width, width)}
        )
        made.register_buffer("bias", torch.tril(torch.ones(16, 16)).view(1, 1, 16, 16))
        return made

    layers = nn.ModuleList([block() for _ in range(depth)])
    self.transformer = nn.ModuleDict({"wte": nn.Embedding(50, width), "wpe": nn.Embedding(16, width), "h": layers})
    self.lm_head = nn.Linear(width, 50, bias=False)
    self.transformer.wte.weight = self.lm_head.weight

    def start(module):
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, mean=0.0, std=0.02)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=0.02)

    self.apply(start)
    for name, parameter in self.named_parameters():
        if name.endswith("c_proj.weight"):
            init.normal_(parameter, mean=0.0, std=0.02 / math.sqrt(2 * depth))


def sines(width, places):
    omega = 1.0 / 10000 ** (np.arange(width // 2, dtype=np.float64) / (width / 2.0))
    out = np.einsum("m,d->md", places.reshape(-1), omega)
    return np.concatenate([np.sin(out), np.cos(out)], axis=1)


@case
def diffusion_transformer(self):
    width = 32
    self.proj = nn.Conv2d(4, width, 2, 2)
    self.pos_embed = nn.Parameter(torch.zeros(1, 16, width), requires_grad=False)
    grid = np.stack(np.meshgrid(np.arange(4, dtype=np.float32), np.arange(4, dtype=np.float32)), axis=0)
    table = np.concatenate([sines(width // 2, grid[0]), sines(width // 2, grid[1])], axis=1)
    self.pos_embed.data.copy_(torch.from_numpy(table).float().unsqueeze(0))
    w = self.proj.weight.data
    init.xavier_uniform_(w.view([w.shape[0], -1]))
    init.constant_(self.proj.bias, 0)
    self.blocks = nn.ModuleList([nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width)) for _ in range(2)])
    for block in self.blocks:
        init.constant_(block[-1].weight, 0)
        init.constant_(block[-1].bias, 0)
    frequencies = torch.exp(-math.log(10000) * torch.arange(0, 8, dtype=torch.float32) / 8)
    self.register_buffer("frequencies", frequencies.to(device=self.proj.weight.device), persistent=False)


class Spectral(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module
        w = module.weight
        height, width = w.data.shape[0], w.view(w.data.shape[0], -1).data.shape[1]
        u = nn.Parameter(w.data.new(height).normal_(0, 1), requires_grad=False)
        v = nn.Parameter(w.data.new(width).normal_(0, 1), requires_grad=False)
        u.data = u.data / (u.data.norm() + 1e-12)
        v.data = v.data / (v.data.norm() + 1e-12)
        kept = nn.Parameter(w.data)
        del module._parameters["weight"]
        module.register_parameter("weight_u", u)
        module.register_parameter("weight_v", v)
        module.register_parameter("weight_bar", kept)


@case
def adversaries(self):
    self.maker = nn.Sequential(nn.ConvTranspose2d(8, 16, 4, 1, 0, bias=False), nn.BatchNorm2d(16), nn.Conv2d(16, 3, 3))

    def weights_init(module):
        name = module.__class__.__name__
        if name.find("Conv") != -1:
            module.weight.data.normal_(0.0, 0.02)
        elif name.find("BatchNorm") != -1:
            module.weight.data.normal_(1.0, 0.02)
            module.bias.data.fill_(0)

    self.maker.apply(weights_init)
    self.judge = Spectral(nn.Conv2d(3, 8, 3))
    self.second = nn.utils.spectral_norm(nn.Conv2d(8, 8, 3))
    self.third = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 4))
    self.gamma = nn.Parameter(torch.zeros(1))
    self.const = nn.Parameter(torch.randn(1, 8, 4, 4))
    self.lin = nn.Parameter(torch.randn(16, 8).div_(0.01))
    kernel = torch.tensor([1, 3, 3, 1], dtype=torch.float32)
    kernel = kernel[None, :] * kernel[:, None]
    kernel /= kernel.sum()
    self.register_buffer("kernel", kernel * 4)
    self.noises = nn.Module()
    for i in range(3):
        self.noises.register_buffer(f"noise_{i}", torch.randn(1, 1, 2 ** (i + 2), 2 ** (i + 2)))


@case
def flows(self):
    _, lower, upper = torch.linalg.lu(torch.linalg.qr(torch.randn(8, 8))[0])
    diagonal = torch.diag(upper)
    self.register_buffer("l_mask", torch.tril(torch.ones(8, 8), -1))
    self.lower = nn.Parameter(lower)
    self.log_s = nn.Parameter(torch.log(torch.abs(diagonal)))
    self.upper = nn.Parameter(torch.triu(upper, 1))
    self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))
    mask = (torch.arange(8) % 2).float()
    self.register_buffer("mask", mask)
    self.register_buffer("inverse", 1 - self.mask)
    self.net = nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 16)), nn.Tanh(), nn.Linear(16, 8))
    self.net[-1].weight.data.zero_()
    self.net[-1].bias.data.zero_()
    self.masked = nn.ModuleList()
    degrees = torch.arange(1, 7)
    for size in (12, 6):
        layer = nn.Linear(len(degrees), size)
        after = torch.arange(size) % 5 + 1
        layer.register_buffer("mask", (after[:, None] >= degrees[None]).float())
        layer.weight.data *= layer.mask
        degrees = after
        self.masked.append(layer)
    assert int(degrees.min()) == 1
    self.base = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))


@case
def state_space(self):
    width, states, rank = 16, 4, 2
    self.in_proj = nn.Linear(width, 2 * width, bias=False)
    self.dt_proj = nn.Linear(rank, width)
    init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
    dt = torch.exp(torch.rand(width) * (math.log(0.1) - math.log(0.001)) + math.log(0.001)).clamp(min=1e-4)
    with torch.no_grad():
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
    self.dt_proj.bias._no_reinit = True
    self.A_log = nn.Parameter(torch.log(torch.arange(1, states + 1, dtype=torch.float32).unsqueeze(0).repeat(width, 1)))
    self.D = nn.Parameter(torch.ones(width))
    self.out = nn.Linear(width, width)
    for name, parameter in self.named_parameters():
        if name == "out.weight":
            init.kaiming_uniform_(parameter, a=math.sqrt(5))
            with torch.no_grad():
                parameter /= math.sqrt(2 * 2)  # noqa: PLW2901 -- in place
        if name.endswith("bias") and not getattr(parameter, "_no_reinit", False):
            init.zeros_(parameter)
    rows = np.arange(8, dtype=np.float64)
    columns, rows = np.meshgrid(rows, rows)
    root = np.sqrt(np.diag(2 * np.arange(8) + 1))
    hippo = root @ -(np.where(rows >= columns, 2 * columns + 1, 0) - np.diag(np.arange(8))) @ np.linalg.inv(root)
    low = torch.sqrt(0.5 + torch.arange(8))
    normal = torch.as_tensor(hippo, dtype=torch.float) + low[:, None] * low[None]
    values, vectors = torch.linalg.eigh((normal - normal.T) / 2 * -1j)
    self.register_buffer("w", torch.view_as_real(values * 1j))
    self.V = nn.Parameter(torch.view_as_real(vectors.contiguous()))
    self.C = nn.Parameter(torch.view_as_real(torch.randn(6, 4, dtype=torch.cfloat)))


@case
def linear_attention(self):
    width, depth = 16, 3
    for i in range(depth):
        block, ratio = nn.Module(), i / (depth - 1)
        places = torch.ones(1, 1, width)
        speed = torch.ones(width)
        for n in range(width):
            places[0, 0, n] = n / width
            speed[n] = -5 + 8 * (n / (width - 1)) ** (0.7 + 1.3 * ratio)
        zigzag = torch.tensor([(n + 1) % 3 - 1 for n in range(width)]) * 0.5
        block.time_decay = nn.Parameter(speed)
        block.time_first = nn.Parameter(torch.ones(width) * math.log(0.3) + zigzag)
        block.mix = nn.Parameter(torch.pow(places, 1 - i / depth) + 0.3 * ratio)
        block.key = nn.Linear(width, width, bias=False)
        self.add_module(f"b{i}", block)
    made = {}
    for name, parameter in self.named_parameters():
        made[name] = parameter.clone()
        if parameter.dim() == 2:
            made[name] = torch.empty(parameter.shape)
            init.orthogonal_(made[name], gain=0.5)
    self.load_state_dict(made)


@case
def splines(self):
    steps, order, inputs, outputs = 5, 3, 4, 6
    grid = (torch.arange(-order, steps + order + 1) * (2 / steps) - 1).expand(inputs, -1).contiguous()
    self.register_buffer("grid", grid)
    self.base_weight = nn.Parameter(torch.Tensor(outputs, inputs))
    self.spline_weight = nn.Parameter(torch.Tensor(outputs, inputs, steps + order))
    init.kaiming_uniform_(self.base_weight, a=math.sqrt(5))

    def b_splines(x):
        x = x.unsqueeze(-1)
        bases = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
        for k in range(1, order + 1):
            left = (x - grid[:, : -(k + 1)]) / (grid[:, k:-1] - grid[:, : -(k + 1)]) * bases[:, :, :-1]
            right = (grid[:, k + 1 :] - x) / (grid[:, k + 1 :] - grid[:, 1:(-k)]) * bases[:, :, 1:]
            bases = left + right
        return bases.contiguous()

    with torch.no_grad():
        noise = (torch.rand(steps + 1, inputs, outputs) - 0.5) * 0.1 / steps
        bases = b_splines(self.grid.T[order:-order]).transpose(0, 1)
        solution = torch.linalg.lstsq(bases, noise.transpose(0, 1)).solution
        self.spline_weight.data.copy_(solution.permute(2, 0, 1).contiguous())


@case
def fields(self):
    self.sine = nn.Sequential(*[nn.Linear(8, 8) for _ in range(3)])
    with torch.no_grad():
        for n, layer in enumerate(self.sine):
            bound = 1 / 8 if n == 0 else np.sqrt(6 / 8) / 30
            layer.weight.uniform_(-bound, bound)
    self.register_buffer("B", torch.randn(3, 16) * 10)
    self.register_buffer("bands", 2.0 ** torch.linspace(0.0, 9, steps=10))
    self.points = nn.ModuleList([nn.Linear(63, 32)] + [nn.Linear(32 + 63 * (n == 2), 32) for n in range(3)])
    for layer in self.points:
        init.xavier_uniform_(layer.weight, gain=init.calculate_gain("relu"))
        init.zeros_(layer.bias)
    sphere = nn.Linear(39, 32)
    init.constant_(sphere.bias, 0.0)
    init.constant_(sphere.weight[:, 3:], 0.0)
    init.normal_(sphere.weight[:, :3], 0.0, np.sqrt(2) / np.sqrt(32))
    self.sphere = nn.utils.weight_norm(sphere)
    self.tables = nn.ModuleList([nn.Embedding(2**5, 2) for _ in range(4)])
    for table in self.tables:
        init.uniform_(table.weight, a=-1e-4, b=1e-4)
    growth = torch.exp((torch.log(torch.tensor(512.0)) - torch.log(torch.tensor(16.0))) / 3)
    self.resolutions = [int(torch.floor(16 * growth**i)) for i in range(4)]
    self.register_buffer("offsets", torch.from_numpy(np.cumsum(self.resolutions).astype(np.int32)))
    self.corners = torch.tensor([[[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]])


@case
def symmetries(self):
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 0]])
    turns = torch.matrix_exp((torch.arange(4) * math.pi / 2)[:, None, None] * turn)
    self.register_buffer("turns", turns)
    self.register_buffer("back", torch.linalg.inv(turns))
    self.register_buffer("pairs", torch.einsum("aij,bjk->abik", turns, turns))
    vectors = torch.linalg.svd(torch.kron(turns[1], turns[1]) - torch.eye(9))[2]
    self.register_buffer("basis", vectors[-3:].reshape(3, 3, 3))
    self.weight = nn.Parameter(torch.einsum("nij,cn->cij", self.basis, torch.randn(8, 3)))


@case
def voices(self):
    def init_weights(module, mean=0.0, std=0.01):
        if module.__class__.__name__.find("Conv") != -1:
            module.weight.data.normal_(mean, std)

    norm = nn.utils.weight_norm
    self.pre = norm(nn.Conv1d(8, 16, 7))
    self.ups = nn.ModuleList([norm(nn.ConvTranspose1d(16, 8, 4, 2, 1))])
    self.ups.apply(init_weights)
    self.new = nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 8, 3))
    self.new.weight.data.normal_(0, 0.01)
    basis = np.fft.fft(np.eye(16))
    basis = np.vstack([np.real(basis[:9]), np.imag(basis[:9])])
    forward, inverse = torch.FloatTensor(basis[:, None, :]), torch.FloatTensor(np.linalg.pinv(4 * basis).T[:, None, :])
    forward *= torch.hann_window(16)
    self.register_buffer("forward_basis", forward.float())
    self.register_buffer("inverse_basis", inverse.float())
    self.embedding = nn.Embedding(20, 16)
    bound = math.sqrt(3) * math.sqrt(2 / (20 + 16))
    self.embedding.weight.data.uniform_(-bound, bound)


@case
def recurrent(self):
    self.lstm = nn.LSTM(8, 12, num_layers=2, bidirectional=True)
    for name, parameter in self.lstm.named_parameters():
        if "weight_ih" in name:
            init.xavier_uniform_(parameter.data)
        elif "weight_hh" in name:
            for i in range(4):
                init.orthogonal_(parameter.data[i * 12 : (i + 1) * 12])
        elif "bias" in name:
            parameter.data.fill_(0)
            n = parameter.size(0)
            parameter.data[n // 4 : n // 2].fill_(1)
    self.h0 = nn.Parameter(torch.randn(1, 12) * 0.05)
    reservoir = torch.rand(12, 12) - 0.5
    reservoir[:, :4] = 0
    self.register_buffer("W", reservoir * (0.9 / torch.max(torch.abs(torch.linalg.eigvals(reservoir)))))


@case
def detector(self):
    heads, levels, points = 4, 2, 3
    self.offsets = nn.Linear(16, heads * levels * points * 2)
    init.constant_(self.offsets.weight.data, 0.0)
    angles = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
    grid = torch.stack([angles.cos(), angles.sin()], -1)
    grid = (grid / grid.abs().max(-1, keepdim=True)[0]).view(heads, 1, 1, 2).repeat(1, levels, points, 1)
    for i in range(points):
        grid[:, :, i, :] *= i + 1
    with torch.no_grad():
        self.offsets.bias = nn.Parameter(grid.view(-1))
    score = nn.Linear(16, 5)
    score.bias.data = torch.ones(5) * -math.log((1 - 0.01) / 0.01)
    self.scores = nn.ModuleList([score for _ in range(3)])
    self.boxes = nn.ModuleList([copy.deepcopy(nn.Linear(16, 4)) for _ in range(3)])
    init.constant_(self.boxes[0].bias.data[2:], -2.0)


@case
def contrasts(self):
    self.query = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    self.key = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    for one, other in zip(self.query.parameters(), self.key.parameters(), strict=True):
        other.data.copy_(one.data)
        other.requires_grad = False
    self.register_buffer("queue", torch.randn(8, 64))
    self.queue = F.normalize(self.queue, dim=0)
    self.average = torch.optim.swa_utils.AveragedModel(self.query)
    codes = torch.randn(8, 32)
    self.register_buffer("codes", codes)
    self.register_buffer("sums", codes.clone())


@case
def features(self):
    blocks = [torch.linalg.qr(torch.randn((8, 8)).cpu(), mode="reduced")[0].t() for _ in range(3)]
    final = torch.cat(blocks)[:20]
    self.register_buffer("projection", torch.diag(torch.randn((20, 8)).norm(dim=1)) @ final)


@case
def inflated(self):
    flat, deep = nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3)
    deep.weight = nn.Parameter(flat.weight.data.unsqueeze(2).repeat(1, 1, 3, 1, 1) / 3)
    deep.bias = flat.bias
    self.deep = deep
    self.gray = nn.Conv2d(1, 4, 3)
    self.gray.weight.data = flat.weight.data.sum(dim=1, keepdim=True)
    kernel = init.kaiming_normal_(torch.zeros(4, 3, 3, 3)).transpose(0, 1).contiguous().view(3, 4, -1)
    self.shuffle = nn.Conv2d(3, 16, 3)
    self.shuffle.weight.data.copy_(kernel.repeat(1, 1, 4).contiguous().view(3, 16, 3, 3).transpose(0, 1))
    self.points = nn.Linear(8, 9)
    self.points.weight.data.zero_()
    self.points.bias.data.copy_(torch.eye(3).flatten())
    self.graph = nn.Parameter(torch.FloatTensor(8, 4))
    bound = 1.0 / math.sqrt(self.graph.size(1))
    self.graph.data.uniform_(-bound, bound)


@pytest.mark.parametrize("name", CASES)
def test_it_is_built_as_pytorch_builds_it(name):
    agree(CASES[name])
