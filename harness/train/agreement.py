"""What the processes that train one cell together must decide alike."""

import torch


def first_process_says(value: bool, device: torch.device) -> bool:
    """What the first of the processes that train together says, in all of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    flag = torch.tensor([float(value)], device=device)
    torch.distributed.broadcast(flag, src=0)
    return bool(flag.item())
