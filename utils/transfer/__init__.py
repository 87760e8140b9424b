"""Transfer of pretrained weights to a changed model: layers are aligned, then tensors are copied."""

from utils.transfer.pretrained import TensorTransfer, TransferReport, plan_transfer, transfer_weights

__all__ = ["TensorTransfer", "TransferReport", "plan_transfer", "transfer_weights"]
