"""Labels between voxels without interpolating what cannot win: blocks of cells of the old grid, one by one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from imaging_pipeline.segment.transforms.places import Taps

_CELLS = 4
"""Cells along each side of a block: few enough that most blocks have one label, enough for operations worth a call."""

_BLOCKS = 192
"""Blocks worked on at a time: on CPU what they become stays near caches."""

_BLOCKS_CUDA = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The blocks along an axis.

    Attributes:
        corner: (n, P) old indices, for each block.
        weight: (n, R, P) float32 what corners add to each new voxel of the block.
        place: (N,) for each new voxel, its block times R plus its place in it.
        empty: (N,) new voxels that lie outside, where all values are 0.
    """

    corner: torch.Tensor
    weight: torch.Tensor
    place: torch.Tensor
    empty: torch.Tensor


def line_of(taps: Taps | None, old: int, *, device: torch.device, whole: bool = False) -> Line:
    """The blocks along an axis.

    Args:
        taps: What makes the new axis; None leaves it as it is.
        old: Voxels along the old axis.
        device: Where the values lie.
        whole: The axis is one block.
    """
    low, high, weights = _both(taps, old)
    cells = max(old, 1) if whole else _CELLS
    block = low // cells
    n, new = int(block.max()) + 1, torch.arange(len(block))
    start = torch.full((n,), len(block)).scatter_reduce_(0, block, new, "amin")
    offset = new - start[block]
    width, corners = int(offset.max()) + 1, old if whole else cells + 1
    weight = torch.zeros((n, width, corners))
    for index, part in zip((low, high), weights, strict=True):
        weight.index_put_((block, offset, index - block * cells), part, accumulate=True)
    corner = (torch.arange(n)[:, None] * cells + torch.arange(corners)).clamp(max=old - 1)
    empty = weights.sum(0) == 0
    return Line(
        corner=corner.to(device),
        weight=weight.to(device),
        place=(block * width + offset).to(device),
        empty=empty.nonzero()[:, 0].to(device),
    )


def largest_between(
    values: torch.Tensor, axis: int, lines: Sequence[Line], numbers: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """The channel with the largest value in each voxel of a new grid, linearly between values on the old one.

    Interpolated values are means of those at corners. Where one channel is the largest at all corners of a block, it
    is throughout the block. Elsewhere, a channel that nowhere exceeds the mean of the channels that are the largest at
    some corner is never above all of those: it is left out.

    Args:
        values: (C, I, J, K), a slab of the old grid.
        axis: The one that is cut.
        lines: Blocks along each axis; a single one along `axis`.
        numbers: (C,) what to call the channels; the first is 0.
        dtype: Of labels.

    Returns:
        (I', J', K') of the dtype.
    """
    values = values.contiguous()
    first, second = (n for n in range(3) if n != axis)
    a, s, b = lines[first], lines[axis], lines[second]
    strides = values.stride()[1:]
    steps = (a.corner * strides[first], s.corner[0] * strides[axis], b.corner * strides[second])
    flat = values.flatten(1)
    labels = flat.max(0).indices  # on CPU, argmax is four times as slow
    lowest, highest = _ends(labels.view(values.shape[1:]).to(dtype), axis, a, b)
    shape = (a.weight.shape[1], s.weight.shape[1], b.weight.shape[1])
    found = numbers.to(dtype)[lowest.long()][:, None].expand(-1, shape[0] * shape[1] * shape[2]).contiguous()
    mixed = (lowest != highest).nonzero()[:, 0]
    for part in torch.split(mixed, _BLOCKS_CUDA if values.is_cuda else _BLOCKS) if len(mixed) else ():
        corners = _corners(part, steps)
        blocks, winners = _mixed(flat, part, corners, labels[corners], (a, s, b), numbers.to(dtype))
        found[blocks] = winners.flatten(1)
    return _assembled(found.view(len(a.corner), len(b.corner), *shape), (a, s, b), axis)


def _ends(labels: torch.Tensor, axis: int, a: Line, b: Line) -> tuple[torch.Tensor, torch.Tensor]:
    """Lowest and highest label at the corners of each block."""
    ends = []
    for end, plane in ((torch.amin, labels.amin(axis)), (torch.amax, labels.amax(axis))):
        rows = end(plane.index_select(0, a.corner.flatten()).view(*a.corner.shape, -1), 1)
        blocks = end(rows.index_select(1, b.corner.flatten()).view(-1, *b.corner.shape), 2)
        ends.append(blocks.flatten())
    return ends[0], ends[1]


def _corners(blocks: torch.Tensor, steps: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """(blocks, corners) where their values lie."""
    a, s, b = steps
    row, column = a[blocks // len(b)], b[blocks % len(b)]
    return (row[:, :, None, None] + s[:, None] + column[:, None, None, :]).flatten(1)


def _both(taps: Taps | None, old: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Old indices that each new voxel lies between, and the (2, N) weights of both."""
    if taps is None:
        index = torch.arange(old)
        return index, index, torch.stack((torch.ones(old), torch.zeros(old)))
    low, high = taps.index[0], taps.index[-1]
    weight = torch.ones((1, len(low))) if taps.weight is None else taps.weight
    return low, high, weight if len(weight) == 2 else torch.cat((weight, torch.zeros_like(weight)))


def _mixed(
    flat: torch.Tensor,
    blocks: torch.Tensor,
    corners: torch.Tensor,
    labels: torch.Tensor,
    lines: tuple[Line, Line, Line],
    numbers: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blocks in another order, and the largest channels of their voxels, (blocks, A, S, B)."""
    n_channels = len(flat)
    values = flat.gather(1, corners.flatten().expand(n_channels, -1)).view(n_channels, *corners.shape)
    can_win = _can_win(values, labels)
    n_winners, order = can_win.sum(1).sort(descending=True)
    channels = can_win[order].to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
    blocks = blocks[order]
    a, s, b = lines
    n_b = len(b.corner)
    weights = (a.weight[blocks // n_b], s.weight[0], b.weight[blocks % n_b])
    best = found = torch.empty(0)
    counts = n_winners.tolist()
    for rank in range(counts[0]):
        n = sum(count > rank for count in counts)
        channel = channels[:n, rank]
        between = _between(values[channel, order[:n]], [weights[0][:n], weights[1], weights[2][:n]])
        channel = numbers[channel][:, None, None]
        if rank == 0:
            best, found = between, channel.expand(between.shape).contiguous()
            continue
        found[:n] = torch.where(between > best[:n], channel, found[:n])
        torch.maximum(best[:n], between, out=best[:n])
    return blocks, found


def _can_win(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(blocks, C) whether a channel can be the largest somewhere, of (C, blocks, corners) and their labels."""
    is_label = torch.zeros((labels.shape[0], len(values)), device=values.device).scatter_(1, labels, 1)
    share = (is_label / is_label.sum(1, keepdim=True)).T[:, :, None]
    mean = (values * share).sum(0)
    return ((values > mean).any(2).T) | is_label.bool()


def _between(corners: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """(blocks, A * S, B) values between corners of shape (blocks, A corners * S corners * B corners)."""
    a, s, b = weights
    n = len(corners)
    values = torch.matmul(s, corners.view(n * a.shape[2], s.shape[1], b.shape[2]))
    values = a.bmm(values.view(n, a.shape[2], -1))
    return values.view(n, -1, b.shape[2]).bmm(b.transpose(1, 2))


def _assembled(found: torch.Tensor, lines: tuple[Line, Line, Line], axis: int) -> torch.Tensor:
    """Blocks of shape (n, n', A, S, B) side by side."""
    a, s, b = lines
    n_a, n_b, width_a, n_s, width_b = found.shape
    rows = found.permute(0, 2, 3, 1, 4).reshape(n_a * width_a, n_s, n_b * width_b)
    rows = rows.index_select(0, a.place)
    rows = rows.gather(2, b.place.expand(*rows.shape[:2], -1)).index_select(1, s.place)
    for n, line in enumerate(lines):
        rows.index_fill_(n, line.empty, 0)
    return rows.movedim(1, axis)
