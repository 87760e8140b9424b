"""Transfer of pretrained weights to a changed model: layers are aligned, then tensors are copied."""

TRANSFER_MODES = ("layers", "keys")  # how tensors are matched
