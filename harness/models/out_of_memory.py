"""Running out of memory, on a GPU or a CPU: told from other errors, and cleared up after."""

import gc

# Where torch's own class and accelerate's list don't know the words.
OTHER_WORDS = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out, or was raised from an error that does."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError | torch.OutOfMemoryError):
            return True
        is_known = isinstance(cause, Exception) and should_reduce_batch_size(cause)
        if is_known or (isinstance(cause, RuntimeError) and any(words in str(cause) for words in OTHER_WORDS)):
            return True
        cause = cause.__cause__
    return False


def clear_memory() -> None:
    """Gives back what nobody refers to any more; call it once the error is gone, whose traceback holds on to tensors."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        # Else what didn't fit would be reported as the peak of what did.
        torch.cuda.reset_peak_memory_stats()
