"""How far the members of an ensemble agree on each label of a volume, counted window by window."""

import numpy as np
import torch

from imaging_pipeline.segment.votes import Votes

_VALUES_AT_A_TIME = 1 << 22
"""Votes that are compared at a time: eight bytes each while they are counted."""


class Agreement:
    """Voxels that members share, by label and pair of members: all that is kept of their labels.

    The measure is the mean Dice coefficient over all pairs of members, label by label: Roy et al., Bayesian QuickNAT
    (NeuroImage 195:11-22, 2019), there over samples by dropout, call it structure-wise uncertainty.

    No member has labels of its own of a whole volume: members are averaged within each window, before windows are put
    together. So their votes on the windows are compared, on the model grid, each voxel once: as that window sees it
    which has it nearest its middle (`WindowPlan.owned`). Where one window holds the volume, that is the agreement of
    the members' own masks, before the bundle's postprocessing. Windows that were left out as air count as background
    by all.
    """

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self._labels: tuple[int, ...] = ()
        self._shared: torch.Tensor | None = None

    def add(self, numbers: torch.Tensor, labels: tuple[int, ...]) -> None:
        """Count the votes on some voxels.

        Args:
            numbers: (M, L, I, J, K) as of `Votes`, of one window or a part of it.
            labels: As of `Votes`.
        """
        n_members, n_numbers = len(numbers), len(labels) + 1
        if self._shared is None:
            self._labels = labels
            self._shared = torch.zeros((n_members, n_members, n_numbers), dtype=torch.int64, device=numbers.device)
        flat = numbers.reshape(n_members, -1)
        flat = flat[:, (flat != 0).any(0)]  # most voxels are nothing to anybody
        for part in torch.split(flat, max(_VALUES_AT_A_TIME // n_members, 1), dim=1):
            for member, own in enumerate(part):
                others = part[member:]
                same = torch.where(others == own, others, 0).long()
                same += torch.arange(len(others), device=same.device)[:, None] * n_numbers
                counts = same.flatten().bincount(minlength=len(others) * n_numbers)
                self._shared[member, member:] += counts.view(len(others), n_numbers).to(self._shared.device)

    def by_label(self) -> dict[int, float]:
        """Mean pairwise Dice by label number, 0 to 1, for labels that any member has; none for a single member.

        Pairs of which neither has the label say nothing and do not count.
        """
        if self._shared is None or len(self._shared) < 2:
            return {}
        shared = self._shared[..., 1:].cpu().numpy().astype(np.float64)
        sizes = np.einsum("mml->ml", shared)
        one, other = np.triu_indices(len(sizes), 1)
        total, twice = sizes[one] + sizes[other], 2 * shared[one, other]
        n_pairs = (total > 0).sum(axis=0)
        means = np.divide(twice, total, out=np.zeros_like(total), where=total > 0).sum(axis=0) / np.maximum(n_pairs, 1)
        return {label: round(float(mean), 6) for label, mean, n in zip(self._labels, means, n_pairs, strict=True) if n}


def count_whole(agreement: Agreement, votes: Votes | None, shape: tuple[int, ...]) -> None:
    """Count votes on a whole volume, where the network's last call was over all of it."""
    if votes is not None and tuple(votes.numbers.shape[-3:]) == shape:
        agreement.add(votes.numbers[0], votes.labels)
