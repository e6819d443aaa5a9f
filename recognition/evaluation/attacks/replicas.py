"""Training in threads: every thread has a copy of the network and its part of the batch, gradients are averaged.

Faster on a few cores than threads inside each operation, and by far on a busy machine. Parts have a fixed size, so what
is learned does not depend on the number of threads; batch normalisation sees its part alone, and its running
figures are those of the first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from recognition.evaluation.captures import in_parallel
from recognition.recognizer import native_precision

PART = 8  # faces
NATIVE_BF16 = native_precision(torch.device("cpu")) == "bfloat16"


def parts_of(count: int) -> list[slice]:
    """Places of a batch's parts."""
    return [slice(start, min(start + PART, count)) for start in range(0, count, PART)]


class Replicas:
    """A network in training and its copies."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._copies: list[nn.Module] = []

    def gradients(self, count: int, loss_of: Callable[[nn.Module, slice], Tensor]) -> float:
        """Leave the mean gradient over a batch of `count` in the network's parameters; the mean loss.

        loss_of(network, part): mean loss of the part, by the copy it is given. Called in threads.
        """
        places = parts_of(count)
        networks = self._equal(len(places))

        def work(k: int) -> float:
            networks[k].train()
            networks[k].zero_grad()
            loss = loss_of(networks[k], places[k])
            loss.backward()
            return float(loss.detach())

        losses = in_parallel(work, range(len(places)))
        shares = [(place.stop - place.start) / count for place in places]
        for parameter, *others in zip(*(list(n.parameters()) for n in networks), strict=True):
            if parameter.grad is None:
                continue
            parameter.grad *= shares[0]
            for share, other in zip(shares[1:], others, strict=True):
                parameter.grad += share * other.grad
        return sum(share * loss for share, loss in zip(shares, losses, strict=True))

    @torch.no_grad()
    def _equal(self, count: int) -> Sequence[nn.Module]:
        while len(self._copies) < count - 1:
            self._copies.append(copy.deepcopy(self.network))
        for other in self._copies[: count - 1]:
            for mine, theirs in zip(self.network.parameters(), other.parameters(), strict=True):
                theirs.copy_(mine)
        return [self.network, *self._copies[: count - 1]]
