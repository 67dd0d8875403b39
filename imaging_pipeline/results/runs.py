"""One pass over the planes of a mask, run by run of equal labels: plain loops, for numba to compile."""

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def scan_plane(
    labels: NDArray[np.uint16],
    bins: NDArray[np.int32],
    plane: int,
    histogram: NDArray[np.uint32],
    sums: Integers,
    boxes: Integers,
    runs: Integers,
    rows: Integers,
    runs_before: Integers,
    rows_before: Integers,
    parts: Integers,
    n_parts: Integers,
) -> None:
    """Count what lies on one plane, and join it to the parts of the planes before.

    Two runs of one label belong together where they touch by a face, an edge or a corner (26 neighbours). A part is
    named by the first of its runs that touched none before; parts that turn out to be one point to the lower name.

    Args:
        labels: (J, I) label numbers.
        bins: (J, I) columns of the histogram that the values fall into; (0, 0) where values are not counted.
        plane: Its number, K.
        histogram: (label, bin) voxels.
        sums: (label, 4) voxels, and the sums of their I, J and K.
        boxes: (label, 6) lowest I, J, K and highest I, J, K.
        runs: (n, 4) is filled with first I, last I + 1, label and part of each run.
        rows: (J + 1) is filled with the number of the first run of each row.
        runs_before: Those of the plane before.
        rows_before: The same of its rows.
        parts: (n, 3) is filled with the part that a part belongs to, its voxels and its label.
        n_parts: (1) how many there are.
    """
    n_rows, n_columns = labels.shape
    counts_values = bins.size > 0
    n_runs = 0
    lines, ends = np.zeros(4, np.int64), np.zeros(4, np.int64)
    for row in range(n_rows):
        rows[row] = n_runs
        for n in range(3):  # runs of the three rows of the plane before that touch this one
            near = row + n - 1
            is_there = 0 <= near < n_rows
            lines[n] = rows_before[near] if is_there else 0
            ends[n] = rows_before[near + 1] if is_there else 0
        lines[3] = rows[row - 1] if row else 0
        ends[3] = n_runs if row else 0
        column = 0
        while column < n_columns:
            label = labels[row, column]
            if label == 0:
                column += 1
                continue
            first = column
            while column < n_columns and labels[row, column] == label:
                if counts_values:
                    histogram[label, bins[row, column]] += 1
                column += 1
            length = column - first
            sums[label, 0] += length
            sums[label, 1] += length * (first + column - 1) // 2
            sums[label, 2] += length * row
            sums[label, 3] += length * plane
            boxes[label, 0] = min(boxes[label, 0], first)
            boxes[label, 1] = min(boxes[label, 1], row)
            boxes[label, 2] = min(boxes[label, 2], plane)
            boxes[label, 3] = max(boxes[label, 3], column - 1)
            boxes[label, 4] = max(boxes[label, 4], row)
            boxes[label, 5] = max(boxes[label, 5], plane)
            part = -1
            for n in range(4):
                others = runs if n == 3 else runs_before
                while lines[n] < ends[n] and others[lines[n], 1] < first:
                    lines[n] += 1
                other = lines[n]
                while other < ends[n] and others[other, 0] <= column:
                    if others[other, 2] == label:
                        root = others[other, 3]
                        while parts[root, 0] != root:
                            parts[root, 0] = parts[parts[root, 0], 0]
                            root = parts[root, 0]
                        if part < 0:
                            part = root
                        elif root < part:
                            parts[part, 0] = root
                            part = root
                        else:
                            parts[root, 0] = part
                    other += 1
            if part < 0:
                part = n_parts[0]
                n_parts[0] += 1
                parts[part, 0], parts[part, 1], parts[part, 2] = part, 0, label
            parts[part, 1] += length
            runs[n_runs, 0], runs[n_runs, 1], runs[n_runs, 2], runs[n_runs, 3] = first, column, label, part
            n_runs += 1
    rows[n_rows] = n_runs
