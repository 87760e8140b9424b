"""Pretrained weights for a changed model: which layer of a checkpoint each layer is, and what it takes from it."""

from utils.transfer.pretrained import Transfer, TransferReport, plan_transfer, transfer_weights

__all__ = ["Transfer", "TransferReport", "plan_transfer", "transfer_weights"]
