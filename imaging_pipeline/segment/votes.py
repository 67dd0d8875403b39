"""What each member of an ensemble says of a window by itself, before members are averaged."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from imaging_pipeline.segment.backends import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """Labels of windows by every member: by every network, and every mirror image of the window through it.

    Attributes:
        numbers: (N, M, L, I, J, K) of N windows by M members: 0 for nothing, 1 for the first of `labels`, and so on. L
            is 1, or the channels, where several labels may share a voxel.
        labels: Label number in the mask that each number above 0 stands for.
    """

    numbers: torch.Tensor
    labels: tuple[int, ...]


Decide = Callable[[torch.Tensor], torch.Tensor]
"""(N, C, I, J, K) scores or probabilities of one member → its (N, L, I, J, K) numbers; see `Votes`."""


class Poll:
    """Takes the vote of one member after the other while an ensemble averages them; scores stay as they are.

    Whoever runs the ensemble takes the votes of a call before the next one: they are not kept twice.
    """

    def __init__(self, decide: Decide | None, labels: Sequence[int] | None = None) -> None:
        """Say how members decide.

        Args:
            decide: What a member's scores mean; None: nobody asks.
            labels: Of the numbers that it gives; None: channel 1 is label 1 and so on, and a single channel label 1.
        """
        self._decide = decide
        self._labels = labels
        self._n_channels = 0
        self._numbers: list[torch.Tensor] = []
        self._ready: Votes | None = None

    def begin(self) -> None:
        """Forget the votes of the call before."""
        self._numbers, self._ready = [], None

    def add(self, scores: torch.Tensor) -> None:
        """The next member: (N, C, I, J, K), turned as the window is."""
        if self._decide is not None:
            self._n_channels = scores.shape[1]
            self._numbers.append(self._decide(scores))

    def end(self) -> None:
        """All members have voted."""
        if self._numbers:
            own = tuple(range(1, max(self._n_channels, 2))) if self._labels is None else tuple(self._labels)
            self.give(Votes(numbers=torch.stack(self._numbers, dim=1), labels=own))

    def give(self, votes: Votes | None) -> None:
        """Votes that were counted elsewhere."""
        self._numbers, self._ready = [], votes

    def take(self) -> Votes | None:
        """The votes of the last call, once."""
        votes, self._ready = self._ready, None
        return votes


def votes_of(network: Network) -> Votes | None:
    """The votes of a network's last call, once; None where it is one network that looks once."""
    poll = getattr(network, "poll", None)
    return poll.take() if isinstance(poll, Poll) else None


@contextmanager
def polling(poll: Poll) -> Iterator[Poll]:
    """One call of an ensemble, its members' votes at hand behind it."""
    poll.begin()
    yield poll
    poll.end()


def by_channels(threshold: float | None) -> Decide:
    """A member decides as the bundle does: by the largest channel, or by channels that reach a threshold.

    Args:
        threshold: Of probabilities; None: the largest channel, 0 of which is background. A single channel is taken
            at 0.5 then.
    """

    def decide(probabilities: torch.Tensor) -> torch.Tensor:
        n_channels = probabilities.shape[1]
        dtype = torch.uint8 if n_channels <= 2**8 else torch.int16
        if threshold is None and n_channels > 1:
            return probabilities.max(1, keepdim=True).indices.to(dtype)  # on CPU, argmax is four times as slow
        reached = probabilities >= (0.5 if threshold is None else threshold)
        own = (
            torch.arange(n_channels, device=reached.device) if n_channels > 1 else torch.ones(1, device=reached.device)
        )
        return reached * own.to(dtype)[:, None, None, None]

    return decide
