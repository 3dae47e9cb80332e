"""Several processes that train one model: how they start, agree, share gradients and weights."""
