"""The labels between eight old voxels: plain loops, for numba to compile."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


def fill_cells(
    out: NDArray[Any],
    weight: Floats,
    low: Floats,
    high: Floats,
    low_labels: Indices,
    high_labels: Indices,
    row_index: Indices,
    row_weight: Floats,
    row_starts: Indices,
    column_index: Indices,
    column_weight: Floats,
    column_starts: Indices,
) -> None:
    """Label the new voxels between two old planes.

    A cell is the new voxels between the same eight old ones, whose values they are means of. Where one channel is the
    largest at all eight, it is throughout the cell. Elsewhere, a channel that at no corner exceeds the mean of the
    channels that are the largest at some corner is never above all of those: it is left out.

    Args:
        out: (N, A', B') new planes to fill.
        weight: (N, 2) what both old planes add to them.
        low: (A, B, C) values of the old plane before them.
        high: Those of the one behind.
        low_labels: (A, B) the channel with the largest value, the first of several.
        high_labels: The same of the plane behind.
        row_index: (2, A') old rows that each new one lies between.
        row_weight: (2, A') what both add.
        row_starts: Where runs of new rows between the same two begin, and where the last one ends.
        column_index: (2, B') likewise.
        column_weight: (2, B') likewise.
        column_starts: Likewise.
    """
    n_channels = low.shape[2]
    corners = np.empty((8, n_channels), np.float32)
    means = np.empty(8, np.float32)
    winners = np.empty(8, np.int64)
    channels = np.empty(n_channels, np.int64)
    for row in range(len(row_starts) - 1):
        first_row, last_row = row_starts[row], row_starts[row + 1]
        above, below = row_index[0, first_row], row_index[1, first_row]
        for column in range(len(column_starts) - 1):
            first_column, last_column = column_starts[column], column_starts[column + 1]
            left, right = column_index[0, first_column], column_index[1, first_column]
            winners[0], winners[1] = low_labels[above, left], low_labels[above, right]
            winners[2], winners[3] = low_labels[below, left], low_labels[below, right]
            winners[4], winners[5] = high_labels[above, left], high_labels[above, right]
            winners[6], winners[7] = high_labels[below, left], high_labels[below, right]
            label = winners[0]
            same = True
            for corner in range(1, 8):
                same = same and winners[corner] == label
            if same:
                for plane in range(len(weight)):
                    for i in range(first_row, last_row):
                        for j in range(first_column, last_column):
                            out[plane, i, j] = label
                continue
            for channel in range(n_channels):
                corners[0, channel], corners[1, channel] = low[above, left, channel], low[above, right, channel]
                corners[2, channel], corners[3, channel] = low[below, left, channel], low[below, right, channel]
                corners[4, channel], corners[5, channel] = high[above, left, channel], high[above, right, channel]
                corners[6, channel], corners[7, channel] = high[below, left, channel], high[below, right, channel]
            # each winner once
            n_winners = 0
            for corner in range(8):
                known = False
                for other in range(n_winners):
                    known = known or winners[other] == winners[corner]
                if not known:
                    winners[n_winners] = winners[corner]
                    n_winners += 1
            for corner in range(8):
                total = np.float32(0)
                for other in range(n_winners):
                    total += corners[corner, winners[other]]
                means[corner] = total / np.float32(n_winners)
            n_left = 0
            for channel in range(n_channels):
                stays = False
                for corner in range(8):
                    stays = stays or corners[corner, channel] > means[corner]
                for other in range(n_winners):
                    stays = stays or winners[other] == channel
                if stays:
                    channels[n_left] = channel
                    n_left += 1
            for i in range(first_row, last_row):
                for j in range(first_column, last_column):
                    for plane in range(len(weight)):
                        best = np.float32(-np.inf)
                        label = channels[0]
                        for number in range(n_left):
                            channel = channels[number]
                            before = row_weight[0, i] * (
                                column_weight[0, j] * corners[0, channel] + column_weight[1, j] * corners[1, channel]
                            ) + row_weight[1, i] * (
                                column_weight[0, j] * corners[2, channel] + column_weight[1, j] * corners[3, channel]
                            )
                            behind = row_weight[0, i] * (
                                column_weight[0, j] * corners[4, channel] + column_weight[1, j] * corners[5, channel]
                            ) + row_weight[1, i] * (
                                column_weight[0, j] * corners[6, channel] + column_weight[1, j] * corners[7, channel]
                            )
                            value = weight[plane, 0] * before + weight[plane, 1] * behind
                            if value > best:
                                best = value
                                label = channel
                        out[plane, i, j] = label
