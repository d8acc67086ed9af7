"""Losses that `torch.nn.functional` does not have."""

import torch
from torch import Tensor

__all__ = ["squared_hinge"]


def squared_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """max(0, 1 - t * logits)^2, the mean over batch and classes; t is +1 for the label, -1 for the others.

    The L2-SVM output of the papers (BinaryConnect, section 3). Its margin of 1 means something only where
    the logits have a scale: put a batch norm before it.

    Args:
        logits: (batch, classes).
        labels: class indices, (batch,).
    """
    targets = torch.full_like(logits, -1).scatter_(1, labels.unsqueeze(1), 1)
    return (1 - targets * logits).clamp(min=0).square().mean()
