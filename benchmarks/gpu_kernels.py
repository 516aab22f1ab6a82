"""Ceilings of a device, and the parts of a training step one by one beside them.

In: settings. Out: a table of milliseconds, rates and shares of the ceiling: large matrix products and copies; the
products of BERT-base and BERT-large; attention over packed rows; the loss in chunks and with all logits; AdamW with and
without masks; the k-th magnitude by radix histogram, by sorting and by `kthvalue`; 2:4 sparse and fp8 products where
torch has them. Data is random, never zeros, which the hardware multiplies faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.gpu_common import Found, Settings, eager_loss, timing
from benchmarks.step_batches import synthetic_text
from ofa.objectives import TeacherRows, chunked_loss
from ofa.pruning.kth import kth_smallest, sort_keys


class Work(NamedTuple):
    """One line of the table."""

    name: str
    call: Callable[[], object]
    flops: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    square: int = 8192
    copied: int = 2**30
    tokens: tuple[int, ...] = (16384, 32768)
    layers: tuple[tuple[int, int], ...] = (
        *((768, 2304), (768, 768), (768, 3072), (3072, 768)),
        *((1024, 3072), (1024, 1024), (1024, 4096), (4096, 1024)),
    )
    """Inputs and outputs of the products; of BERT-large with the first number of tokens only."""
    hidden: int = 768
    vocab: int = 30528
    predicted: int = 4915
    length: int = 512
    weights: tuple[int, ...] = (84_934_656, 301_989_888)
    """Prunable weights of the encoders of BERT-base and BERT-large."""


QUICK = Sizes(256, 2**20, (256, 512), ((64, 192), (256, 64)), 64, 512, 32, 32, (2**16, 2**18))


def measure(settings: Settings) -> Found:
    """Time every line."""
    sizes = QUICK if settings.quick else Sizes()
    torch.manual_seed(0)
    ceiling, rows, data = {"flops": 0.0, "bytes": 0.0}, [], {}
    for work in works(settings, sizes):
        if isinstance(work, str):
            rows.append([work, "", "", "", ""])
            continue
        took = timing(work.call, settings.device)
        rate, kind = (work.flops, "flops") if work.flops else (work.bytes, "bytes")
        rate *= 1e3 / took.milliseconds
        ceiling[kind] = ceiling[kind] or rate  # the first of each kind is the ceiling
        unit = f"{rate / 1e12:,.1f} TFLOP/s" if kind == "flops" else f"{rate / 1e9:,.0f} GB/s"
        figures = [f"{took.milliseconds:,.3f}", f"{took.spread:.0%}"]
        rows.append([work.name, *figures, *([unit, f"{rate / ceiling[kind]:.0%}"] if rate else ["", ""])])
        data[work.name] = {**asdict(took), kind: rate}
    notes = [f"matrix products in {str(settings.dtype).removeprefix('torch.')}; spread of two repeats"]
    return Found(["", "ms", "spread", "rate", "of ceiling"], rows, {"kernels": data, "ceiling": ceiling}, notes=notes)


def works(settings: Settings, sizes: Sizes) -> Iterator[Work | str]:
    """Every line in order; a string is one that cannot be measured here. Each frees its tensors before the next."""
    yield from ceilings(settings, sizes)
    yield from products(settings, sizes)
    yield from attention(settings, sizes)
    yield from losses(settings, sizes)
    yield from optimizer(settings, sizes)
    for count in sizes.weights:
        yield from kth(settings, count)
    yield from low_precision(settings, sizes)


def ceilings(settings: Settings, sizes: Sizes) -> Iterator[Work]:
    """The two rates that everything else is held against."""
    n = sizes.square
    yield product(settings, f"matrix product {n}^3", n, n, n)
    source = torch.randn(sizes.copied // 4, device=settings.device)
    target = torch.empty_like(source)
    yield Work(f"copy {sizes.copied / 2**20:,.0f} MiB", lambda: target.copy_(source), bytes=2.0 * sizes.copied)


def products(settings: Settings, sizes: Sizes) -> Iterator[Work]:
    """The Linears of an encoder, and the decoder at predicted positions."""
    half = len(sizes.layers) // 2
    for tokens in sizes.tokens:
        for inputs, outputs in sizes.layers if tokens == sizes.tokens[0] else sizes.layers[:half]:
            yield product(settings, f"linear {tokens:,} x {inputs} x {outputs}", tokens, inputs, outputs)
    for predicted in (sizes.predicted // 2, sizes.predicted):
        name = f"decoder {predicted:,} x {sizes.hidden} x {sizes.vocab:,}"
        yield product(settings, name, predicted, sizes.hidden, sizes.vocab)


def product(settings: Settings, name: str, rows: int, inputs: int, outputs: int) -> Work:
    """x [rows, inputs] @ w.T [inputs, outputs]."""
    x, w = (torch.randn(n, inputs, device=settings.device, dtype=settings.dtype) for n in (rows, outputs))
    return Work(name, lambda: functional.linear(x, w), flops=2.0 * rows * inputs * outputs)


def attention(settings: Settings, sizes: Sizes) -> Iterator[Work | str]:
    """Forward and backward of one layer's attention over as many tokens, as full rows, in packed rows, by lengths."""
    tokens, heads = sizes.tokens[0], sizes.hidden // 64 or 1
    width = sizes.hidden // heads
    q, k, v = (random(settings, tokens, heads, width).requires_grad_() for _ in range(3))

    def of_rows(length: int, mask: Tensor | None = None) -> Callable[[], object]:
        def call() -> None:
            parts = (part.view(-1, length, heads, width).transpose(1, 2) for part in (q, k, v))
            functional.scaled_dot_product_attention(*parts, attn_mask=mask).sum().backward()

        return call

    def flops(lengths: list[int]) -> float:
        return 3.5 * 4.0 * sum(n * n for n in lengths) * heads * width  # forward 1, backward 2.5 with its recomputing

    for length in (sizes.length // 4, sizes.length):
        yield Work(f"attention, rows of {length}", of_rows(length), flops([length] * (tokens // length)))
    lengths = packed_lengths(tokens, sizes)
    documents = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).view(-1, sizes.length)
    visible = (documents[:, None, :, None] == documents[:, None, None, :]).to(settings.device)
    yield Work(f"attention, packed rows of {sizes.length}, mask", of_rows(sizes.length, visible), flops(lengths))
    try:
        from torch.nn.attention.varlen import varlen_attn  # younger than the oldest torch that serves

        bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32, device=settings.device)

        def by_lengths() -> None:
            found: Any = varlen_attn(q, k, v, bounds, bounds, max(lengths), max(lengths))
            found.sum().backward()

        by_lengths()
    except (ImportError, RuntimeError, NotImplementedError, TypeError) as error:
        yield f"attention, by lengths: {first_line(error)}"
    else:
        yield Work("attention, packed, by lengths", by_lengths, flops(lengths))


def packed_lengths(tokens: int, sizes: Sizes) -> list[int]:
    """Lengths of the segments of full packed rows, together `tokens`; what a row has left is a segment of its own."""
    text = synthetic_text(tokens // sizes.length, sizes.length, 100)
    lengths: list[int] = []
    for row in text.rows:
        own = [len(segment) for segment in row]
        lengths += [*own, sizes.length - sum(own)] if sum(own) < sizes.length else own
    return lengths


def losses(settings: Settings, sizes: Sizes) -> Iterator[Work]:
    """Cross-entropy and distillation with gradients: in chunks, with all logits, and the latter compiled (PERF-6)."""
    hidden, taught = (random(settings, sizes.predicted, sizes.hidden) for _ in range(2))
    weight, weight_of_teacher = (random(settings, sizes.vocab, sizes.hidden) / 30 for _ in range(2))
    bias = random(settings, sizes.vocab)
    labels = torch.randint(sizes.vocab, (sizes.predicted,), device=settings.device)
    for part in (hidden, weight, bias):
        part.requires_grad_()
    rows = TeacherRows(taught, weight_of_teacher, bias.detach())
    scale = 0.5 / sizes.predicted
    size = f"{sizes.predicted:,} x {sizes.vocab:,}"

    def chunks() -> None:
        chunked_loss(hidden, weight, bias, labels, rows, ce_scale=scale, kd_scale=scale).loss.backward()

    def eager(loss: Callable[..., Tensor] = eager_loss) -> None:
        with torch.no_grad():
            logits = functional.linear(taught, weight_of_teacher, bias)
        loss(hidden, weight, bias, labels, logits).backward()

    flops = 8.0 * sizes.predicted * sizes.hidden * sizes.vocab
    yield Work(f"loss and gradients {size}, in chunks", chunks, flops)
    yield Work("the same with all logits", eager, flops)
    if settings.device != "cpu":
        compiled = torch.compile(eager_loss)
        yield Work("the same, compiled", lambda: eager(compiled), flops)


def optimizer(settings: Settings, sizes: Sizes) -> Iterator[Work]:
    """Fused AdamW over one flat fp32 array, alone and with what masks add to a step."""
    count = sizes.weights[0]
    master = nn.Parameter(torch.randn(count, device=settings.device))
    master.grad = torch.randn_like(master)
    adam = torch.optim.AdamW([master], lr=1e-9, fused=True)
    live, gradient = (torch.randn(count, device=settings.device).to(settings.dtype) for _ in range(2))
    keep = torch.rand(count, device=settings.device) >= 0.9

    def masked() -> None:
        gradient.mul_(keep)
        adam.step()
        live.mul_(keep)

    yield Work(f"AdamW {count / 1e6:,.1f} M weights", adam.step, bytes=28.0 * count)
    moved = 28.0 + 2 * (2 * live.element_size() + 1)
    yield Work("the same, gradients and live weights masked", masked, bytes=moved * count)


def kth(settings: Settings, count: int) -> Iterator[Work]:
    """The k-th smallest magnitude of one tensor at 90 %."""
    magnitudes = torch.randn(count, device=settings.device).abs()
    keys, wanted = sort_keys(magnitudes.clone()), int(0.9 * count)

    def radix() -> None:
        kth_smallest([keys], [0], [wanted], sizes=[count], sum_over_ranks=lambda _: None, device=keys.device)

    size = f"of {count / 1e6:,.1f} M"
    yield Work(f"k-th {size}, radix histogram", radix, bytes=3 * 4.0 * count)
    yield Work(f"k-th {size}, sort", lambda: magnitudes.sort(), bytes=4.0 * count)
    yield Work(f"k-th {size}, kthvalue", lambda: magnitudes.kthvalue(wanted), bytes=4.0 * count)


def low_precision(settings: Settings, sizes: Sizes) -> Iterator[Work | str]:
    """2:4 sparse weights and fp8 products, at the widest product of each encoder."""
    tokens = sizes.tokens[0]
    for inputs, outputs in {sizes.layers[len(sizes.layers) // 2 - 1], sizes.layers[-1]}:
        for kind, build in (("2:4", _two_of_four), ("fp8", _fp8)):
            name = f"linear {tokens:,} x {inputs} x {outputs}, {kind}"
            try:
                call = build(settings, tokens, inputs, outputs)
                call()
            except (RuntimeError, NotImplementedError, AttributeError, ValueError) as error:
                yield f"{name}: {first_line(error)}"
            else:
                yield Work(name, call, 2.0 * tokens * inputs * outputs)


def _two_of_four(settings: Settings, tokens: int, inputs: int, outputs: int) -> Callable[[], object]:
    from torch.sparse import to_sparse_semi_structured

    weight = random(settings, outputs, inputs)
    weight.view(-1, 4)[:, :2] = 0
    sparse, x = to_sparse_semi_structured(weight), random(settings, tokens, inputs)
    return lambda: functional.linear(x, sparse)


def _fp8(settings: Settings, tokens: int, inputs: int, outputs: int) -> Callable[[], object]:
    x, w = (random(settings, n, inputs).to(torch.float8_e4m3fn) for n in (tokens, outputs))
    one = torch.ones((), device=settings.device)
    return lambda: torch.ops.aten._scaled_mm(x, w.t(), one, one, out_dtype=settings.dtype)


def random(settings: Settings, *shape: int) -> Tensor:
    """Normal numbers in the dtype of matrix products."""
    return torch.randn(shape, device=settings.device).to(settings.dtype)


def first_line(error: BaseException) -> str:
    """What an error says first, shortened."""
    return (str(error).splitlines() or [type(error).__name__])[0][:60]
